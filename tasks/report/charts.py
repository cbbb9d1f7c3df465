"""Error against cost and against latency, and the training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.report import drawing, units
from tasks.report.read import SettingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES_PER_ROW = 4
LABEL_SIZE = 8.5  # points
WHISKER = 0.4  # how bad it is that a label covers a whisker, where covering a mark is 1
FIRST_DISTANCE = 13.0  # of a label from its point, in pixels


@dataclass(frozen=True, kw_only=True)
class Point:
    """A setting in a scatter plot; ``index`` picks its colour, ``x_range`` and ``y_range`` are its whiskers."""

    name: str
    index: int
    x: float
    y: float
    x_range: tuple[float, float] | None
    y_range: tuple[float, float]
    published: float | None = None  # the published error of the same network


def scatter(points: Sequence[Point], *, x_label: str, scale: float, line: tuple[float, str] | None = None) -> Figure:
    """Error against ``x / scale``, each setting labelled; ``line`` is a marked x value with its name."""
    with drawing.style():
        figure = drawing.new_figure(5.0, 3.4 if len(points) <= 6 else 4.4)
        axes = figure.subplots()
        for point in points:
            _draw_point(axes, point, scale)
        _limits(axes, points, scale, line)
        if line is not None:
            _mark(axes, line[0] / scale, line[1])
        axes.set_xlabel(x_label)
        axes.set_ylabel("test error (top-1), %")
        figure.canvas.draw()
        _label_points(axes, points, scale, line)
    return figure


def _draw_point(axes: Axes, point: Point, scale: float) -> None:
    colour = drawing.colour(point.index)
    x = point.x / scale
    axes.plot([x, x], point.y_range, color=colour, linewidth=1.1, alpha=0.55)
    if point.x_range is not None:
        axes.plot([edge / scale for edge in point.x_range], [point.y] * 2, color=colour, linewidth=1.1, alpha=0.55)
    shape = drawing.marker(point.index)
    axes.plot(x, point.y, shape, color=colour, markersize=8, markeredgecolor=drawing.SURFACE, markeredgewidth=1.2)
    if point.published is not None:
        axes.plot(x, point.published, shape, color="none", markersize=7, markeredgecolor=colour, markeredgewidth=1.3)


def _limits(axes: Axes, points: Sequence[Point], scale: float, line: tuple[float, str] | None) -> None:
    """From zero when the values are of one size, so that distances tell the truth; logarithmic beyond that."""
    values = [point.x / scale for point in points]
    values += [line[0] / scale] if line is not None else []
    whiskers = [edge / scale for point in points for edge in point.x_range or ()]
    values += [edge for edge in whiskers if min(values) / 2 <= edge <= max(values) * 1.5]  # longer ones are cut
    if max(values) > 20 * min(values) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 1.6, max(values) * 2.2)
    else:
        axes.set_xlim(0, max(values) * 1.18)
    top = max(max(point.y_range[1], point.published or 0) for point in points)
    axes.set_ylim(0, max(top * 1.12, 1))


def _mark(axes: Axes, x: float, name: str) -> None:
    axes.axvline(x, color=drawing.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.annotate(
        name,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -2),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="top",
        color=drawing.MUTED,
        fontsize=8,
    )


Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def _label_points(axes: Axes, points: Sequence[Point], scale: float, line: tuple[float, str] | None) -> None:
    """Write each name beside its point, at the first place that covers nothing (or covers least)."""
    at = axes.transData.transform
    taken = [box for point in points for box in _point_boxes(axes, point, scale)]
    bounds = axes.get_window_extent()
    frame = (bounds.x0, bounds.y0, bounds.x1, bounds.y1)
    if line is not None:
        x = at((line[0] / scale, 0))[0]
        taken += [((x - 16, frame[3] - 90, x, frame[3]), 1.0), ((x - 1, frame[1], x + 1, frame[3]), WHISKER)]
    for point in points:
        x, y = at((point.x / scale, point.y))
        places = _places(point.name, x, y)
        box, dx, dy, align = min(places, key=lambda place: _covered(place[0], taken, frame) + 1.5 * abs(place[1]))
        taken.append((box, 1.0))
        is_far = abs(dx) > FIRST_DISTANCE
        axes.annotate(
            point.name,
            (point.x / scale, point.y),
            xytext=(dx * 0.72, dy * 0.72),  # pixels at 100 dpi to points
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=LABEL_SIZE,
            arrowprops={"arrowstyle": "-", "color": drawing.MUTED, "linewidth": 0.6, "shrinkB": 5} if is_far else None,
        )


def _point_boxes(axes: Axes, point: Point, scale: float) -> list[tuple[Box, float]]:
    """What a label should not cover and how bad it would be: the mark, its whiskers, its published mark."""
    at = axes.transData.transform
    x, y = at((point.x / scale, point.y))
    low, high = (at((0, edge))[1] for edge in point.y_range)
    left, right = (at((edge / scale, 0))[0] for edge in point.x_range or (point.x, point.x))
    boxes = [((x - 7, y - 7, x + 7, y + 7), 1.0)]
    boxes += [((x - 1, low, x + 1, high), WHISKER), ((left, y - 1, right, y + 1), WHISKER)]
    if point.published is not None:
        other = at((0, point.published))[1]
        boxes.append(((x - 7, other - 7, x + 7, other + 7), 1.0))
    return boxes


def _places(name: str, x: float, y: float) -> list[tuple[Box, float, float, str]]:
    """Candidate places of a label around a point, the best first: box, offset, alignment."""
    width, height = 0.78 * LABEL_SIZE * len(name) + 2, 14.0
    found = []
    for distance in (FIRST_DISTANCE, 26.0, 42.0, 64.0, 92.0):
        for dx, dy in ((1, 0), (-1, 0), (0.8, 0.9), (0.8, -0.9), (-0.8, 0.9), (-0.8, -0.9)):
            left, middle = x + dx * distance, y + dy * distance
            edge = left if dx > 0 else left - width
            box = (edge, middle - height / 2, edge + width, middle + height / 2)
            found.append((box, dx * distance, dy * distance, "left" if dx > 0 else "right"))
    return found


def _covered(box: Box, taken: Sequence[tuple[Box, float]], frame: Box) -> float:
    """The weighted area that ``box`` shares with others, plus what sticks out of the frame, weighing more."""
    overlap = sum(weight * _shared(box, other) for other, weight in taken)
    outside = (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, frame)
    return overlap + 4 * outside


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def training_curves(results: Sequence[SettingResult], *, loss_range: tuple[float, float], error_top: float) -> Figure:
    """Loss (logarithmic) and error by epoch, a column a setting; a line where connections were dropped.

    The ranges of the axes are given so that several such figures can be compared.
    """
    with drawing.style():
        figure = drawing.new_figure(0.6 + 2.35 * len(results), 4.1)
        grid = figure.subplots(2, len(results), squeeze=False, sharex="col", sharey="row")
        for column, result in enumerate(results):
            loss, error = grid[0][column], grid[1][column]
            loss.set_title(units.shorten(result.name, 26), pad=18)
            _curve(loss, result, "loss")
            _curve(error, result, "error_pct")
            _condensing_marks(loss, result, named=True)
            _condensing_marks(error, result, named=False)
            error.set_xlabel("epoch")
            error.set_xlim(0, max(row["epoch"] for row in result.history) * 1.02)
        grid[0][0].set_yscale("log")
        grid[0][0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        grid[0][0].set_ylim(*loss_range)
        grid[1][0].set_ylim(0, error_top)
        grid[0][0].set_ylabel("loss")
        grid[1][0].set_ylabel("error (top-1), %")
        _curve_legend(figure, results)
    return figure


def measured_split(result: SettingResult) -> str:
    """The images that every epoch was measured on: "validation", or "test" where none are held out."""
    return str((result.train or {}).get("validation_split", "validation"))


def _curve(axes: Axes, result: SettingResult, quantity: str) -> None:
    epochs = [row["epoch"] for row in result.history]
    dots = "o" if len(epochs) == 1 else ""
    for index, part in enumerate(("train", "validation")):
        values = [row[f"{part}_{quantity}"] for row in result.history]
        axes.plot(epochs, values, marker=dots, markersize=4, color=drawing.SERIES[index])
    drawing.only_grid(axes, "y")


def dropping_epochs(result: SettingResult) -> list[tuple[int, int]]:
    """(epoch, condensing stage reached in it) of every epoch in which connections were dropped."""
    found, before = [], 0
    for row in result.history:
        now = int(row["condensing_stage"])
        if now > before:
            found.append((int(row["epoch"]), now))
        before = now
    return found


def _condensing_marks(axes: Axes, result: SettingResult, *, named: bool) -> None:
    """A line in the middle of each epoch that dropped connections, with the number of the condensing stage."""
    for epoch, condensing_stage in dropping_epochs(result):
        axes.axvline(epoch - 0.5, color=drawing.MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
        if named:
            axes.annotate(
                str(condensing_stage),
                (epoch - 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
                color=drawing.MUTED,
            )


def _curve_legend(figure: Figure, results: Sequence[SettingResult]) -> None:
    from matplotlib.lines import Line2D

    parts = " or ".join(sorted({measured_split(result) for result in results}))
    handles = [
        Line2D([], [], color=drawing.SERIES[0], label="training images"),
        Line2D([], [], color=drawing.SERIES[1], label=f"{parts} images"),
    ]
    if any(dropping_epochs(result) for result in results):
        dashes = (0, (2, 2))
        line = Line2D(
            [], [], color=drawing.MUTED, linewidth=0.9, linestyle=dashes, label="condensing stage (its number)"
        )
        handles.append(line)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) if len(results) > 1 else 1)
