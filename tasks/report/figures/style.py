"""How figures look. matplotlib is imported where it is used, since that takes a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from tasks.colours import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each becomes a CSS variable in the page, so the dark colour scheme can change it.
INK, MUTED, GRID, SURFACE = "#1d2430", "#5c6675", "#dfe3e8", "#fefefe"
MARKERS = "os^Dvp"
CSS_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"}
CSS_VARIABLES |= {colour: f"series-{index}" for index, colour in enumerate(SERIES)}

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
def figure_style() -> Iterator[None]:
    """The style of every figure; both drawing and saving need it."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure outside pyplot's global state; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colour(index: int) -> str:
    """The colour of the setting at ``index``; they repeat from the seventh on, with another marker."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    return MARKERS[(index // len(SERIES) + index) % len(MARKERS)]


def only_grid(axes: Axes, axis: Literal["x", "y"] | None) -> None:
    """Grid lines of one axis alone, or none."""
    axes.grid(False)
    if axis is not None:
        axes.grid(True, axis=axis)
