"""How figures look and how they are saved: SVG inside the page (light and dark), PNG for MLflow.

matplotlib is imported only where it is used: it takes a second.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.colours import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ink, lines and surfaces; each becomes a CSS variable in the page, so that a dark scheme can change it.
INK, MUTED, GRID, SURFACE = "#1d2430", "#5c6675", "#dfe3e8", "#fefefe"
MARKERS = "os^Dvp"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"}
VARIABLES |= {colour: f"series-{index}" for index, colour in enumerate(SERIES)}

STYLE: dict[Any, Any] = {
    "backend": "agg",
    "svg.hashsalt": "condensenet",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.unicode_minus": False,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure; wrap the drawing and the saving in it."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colour(index: int) -> str:
    """The colour of the setting at ``index``; from the seventh on they repeat, with another marker."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    return MARKERS[(index // len(SERIES) + index) % len(MARKERS)]


def only_grid(axes: Axes, axis: Literal["x", "y"] | None) -> None:
    """Grid lines of one axis alone, or none."""
    axes.grid(False)
    if axis is not None:
        axes.grid(True, axis=axis)


def to_png(figure: Figure, path: Path) -> None:
    with style():
        figure.savefig(path, format="png", dpi=150, facecolor="white", metadata={"Software": None})


def to_svg(figure: Figure, key: str, label: str) -> str:
    """The figure as an ``<svg>`` element for the page.

    ``key`` makes its ids unique in the page and ``label`` is read out by a screen reader. The same figure always
    gives the same bytes.
    """
    out = io.StringIO()
    with style():
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = _page_ids(svg, key)
    svg = re.sub(r"font-family:[^;\"]*;?", "", svg)
    for code, name in VARIABLES.items():
        svg = svg.replace(code, f"var(--{name})")
    return _opening_tag(svg, label)


def _page_ids(svg: str, key: str) -> str:
    """Ids that no other figure of the page has."""
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'href="#', f'href="#{key}-', svg)
    return svg.replace("url(#", f"url(#{key}-")


def _opening_tag(svg: str, label: str) -> str:
    """The ``<svg>`` tag with a label, its natural width in CSS pixels and no more attributes than needed."""
    tag, rest = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', tag)
    assert box is not None, tag
    width = float(box[1].split()[2]) * 4 / 3  # points to CSS pixels
    return (
        f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(label, quote=True)}" '
        f'style="width: {width:.0f}px">{rest}'
    )
