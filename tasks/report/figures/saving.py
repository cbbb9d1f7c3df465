"""A figure of the report, saved as SVG inside the page (light and dark) or as PNG for MLflow."""

from __future__ import annotations

import html
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.report.figures.style import CSS_VARIABLES, figure_style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


TIP = "tip-"  # before the hexadecimal text of a mark's explanation, in its id


@dataclass(frozen=True, kw_only=True)
class ReportFigure:
    """``label`` describes the figure for a screen reader; ``setting`` is the one it is about, "" for all."""

    key: str
    caption: str
    label: str
    figure: Figure
    setting: str = ""
    is_folded: bool = False  # in the page, until the reader opens it


def explain(artist: Artist, text: str) -> None:
    """Show ``text`` in the page when the pointer is over ``artist``."""
    artist.set_gid(TIP + text.encode().hex())


def to_png(figure: Figure, path: Path) -> None:
    with figure_style():
        figure.savefig(path, format="png", dpi=150, facecolor="white", metadata={"Software": None})


def to_svg(figure: Figure, key: str, label: str) -> str:
    """The figure as an ``<svg>`` element for the page; the same figure always gives the same bytes.

    ``key`` makes its ids unique in the page, and ``label`` is for screen readers.
    """
    file = io.StringIO()
    with figure_style():
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = _with_tips(svg)
    svg = _with_unique_ids(svg, key)
    svg = re.sub(r"font-family:[^;\"]*;?", "", svg)
    for code, name in CSS_VARIABLES.items():
        svg = svg.replace(code, f"var(--{name})")
    return _with_opening_tag(svg, label)


def _with_tips(svg: str) -> str:
    """Groups that ``explain`` marked get their text as a title, which browsers show on hover."""

    def group(match: re.Match[str]) -> str:
        return f"<g><title>{html.escape(bytes.fromhex(match[1]).decode())}</title>"

    return re.sub(rf'<g id="{TIP}([0-9a-f]*)">', group, svg)


def _with_unique_ids(svg: str, key: str) -> str:
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'href="#', f'href="#{key}-', svg)
    return svg.replace("url(#", f"url(#{key}-")


def _with_opening_tag(svg: str, label: str) -> str:
    """The ``<svg>`` tag with a label, its natural width in CSS pixels and no other attributes."""
    tag, rest = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', tag)
    assert box is not None, tag
    width = float(box[1].split()[2]) * 4 / 3  # points to CSS pixels
    return (
        f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(label, quote=True)}" '
        f'style="width: {width:.0f}px">{rest}'
    )
