"""Test error against cost and against latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks import paths
from tasks.report import formats
from tasks.report.figures import saving, style
from tasks.report.figures.saving import ReportFigure
from tasks.report.published import Published, dataset_of
from tasks.report.results import SettingResult, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

UNITS = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))
LABEL_SIZE = 8.5  # points
MARK_RADIUS = 6.0  # pixels that a label keeps away from the centre of a mark
Segment = tuple[list[float], list[float]]  # its x values, its y values


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
    native_x: float | None = None  # of the network in native form, whose error is the same
    tip: str = ""

    @property
    def whiskers(self) -> list[Segment]:
        vertical = ([self.x, self.x], [*self.y_range])
        return [vertical] if self.x_range is None else [vertical, ([*self.x_range], [self.y, self.y])]

    @property
    def native_line(self) -> list[Segment]:
        return [] if self.native_x is None else [([self.native_x, self.x], [self.y, self.y])]


def error_figures(study: Study, published: Published) -> list[ReportFigure]:
    """Error against MACs and error against latency; a figure without points is left out."""
    results = list(enumerate(study.results))
    figures = []
    points = [point for index, result in results if (point := _cost_point(result, index, study, published))]
    if points:
        scale, unit = next(((size, word) for size, word in UNITS if max(p.x for p in points) >= size), (1.0, ""))
        figure = scatter([_scaled(p, scale) for p in points], x_label=f"MACs, {unit}".rstrip(", "))
        label = _label("Error against MACs", points, "MACs", formats.short_count)
        figures.append(ReportFigure(key="error-macs", caption="Error against MACs", label=label, figure=figure))
    points = [point for index, result in results if (point := _latency_point(result, index))]
    if points:
        figure = scatter(points, x_label="latency, ms (batch 1, 1 thread)", reference=_mobilenet(study))
        label = _label("Error against latency", points, "ms", formats.milliseconds)
        figures.append(ReportFigure(key="error-latency", caption="Error against latency", label=label, figure=figure))
    return figures


def _cost_point(result: SettingResult, index: int, study: Study, published: Published) -> Point | None:
    dataset = dataset_of(study.params)
    match = published.match(result.setting.model, dataset)
    error = match.figures[f"{dataset}_error_pct"] if match is not None else None
    return _point(result, index, result.metrics.get("macs"), None, error)


def _latency_point(result: SettingResult, index: int) -> Point | None:
    row = result.latency_row()
    native = result.latency_row(paths.NATIVE)
    if row is None:
        return None
    point = _point(result, index, row["median_ms"], (row["p10_ms"], row["p90_ms"]), None)
    if point is None or native is None:
        return point
    native_ms = native["median_ms"]
    return dataclasses.replace(
        point, native_x=native_ms, tip=f"{point.tip}, native form {formats.milliseconds(native_ms)} ms"
    )


def _point(
    result: SettingResult,
    index: int,
    x: float | None,
    x_range: tuple[float, float] | None,
    published: float | None,
) -> Point | None:
    error, interval = result.metrics.get("test_error_pct"), result.error_interval_pct
    if x is None or error is None or interval is None:
        return None
    amount = formats.short_count(x) + " MACs" if x_range is None else f"{formats.milliseconds(x)} ms"
    return Point(
        name=result.name,
        index=index,
        x=x,
        y=error,
        x_range=x_range,
        y_range=interval,
        published=published,
        tip=f"{result.name}: error {error:.2f}% ({interval[0]:.1f}–{interval[1]:.1f}%), {amount}",
    )


def _scaled(point: Point, scale: float) -> Point:
    """``point`` with its x value, which has no whiskers, in a larger unit."""
    assert point.x_range is None
    return dataclasses.replace(point, x=point.x / scale)


def _mobilenet(study: Study) -> tuple[float, str] | None:
    """The median over the settings of MobileNetV1's latency, each timed alternately with its setting."""
    rows = [row for result in study.results if (row := result.latency_row()) is not None]
    latencies = sorted(row["yardstick_median_ms"] for row in rows)
    return (latencies[len(latencies) // 2], "MobileNetV1") if latencies else None


def _label(caption: str, points: Sequence[Point], unit: str, number_format: Callable[[float], str]) -> str:
    def native(point: Point) -> str:
        return "" if point.native_x is None else f" ({number_format(point.native_x)} {unit} in native form)"

    return f"{caption}. " + "; ".join(f"{p.name}: {number_format(p.x)} {unit}{native(p)}, {p.y:.2f}%" for p in points)


def scatter(points: Sequence[Point], *, x_label: str, reference: tuple[float, str] | None = None) -> Figure:
    """Error against x with a label for each setting; ``reference`` is an x value marked by a line, and its name."""
    with style.figure_style():
        figure = style.new_figure(5.0, 3.4 if len(points) <= 6 else 4.4)
        axes = figure.subplots()
        for point in points:
            _draw_point(axes, point)
        _set_limits(axes, points, reference)
        axes.set_xlabel(x_label)
        axes.set_ylabel("test error (top-1), %")
        segments = [segment for point in points for segment in (*point.whiskers, *point.native_line)]
        if reference is not None:
            text = _draw_reference(axes, *reference)
            figure.draw_without_rendering()  # lays the figure out: only then has the text its place
            segments += _reference_segments(axes, reference[0], text)
        _label_points(axes, points, segments)
    return figure


def _draw_point(axes: Axes, point: Point) -> None:
    colour, shape = style.colour(point.index), style.marker(point.index)
    for x, y in point.whiskers:
        axes.plot(x, y, color=colour, linewidth=1.1, alpha=0.55)
    edge: dict[str, Any] = {"markeredgecolor": style.SURFACE, "markeredgewidth": 1.2}
    if point.native_x is not None:
        axes.plot([point.native_x, point.x], [point.y] * 2, color=colour, linewidth=1.1, linestyle=(0, (1, 2)))
        (mark,) = axes.plot(point.native_x, point.y, shape, color=colour, alpha=0.45, markersize=8, **edge)
        saving.explain(mark, f"native form of {point.tip}")
    (mark,) = axes.plot(point.x, point.y, shape, color=colour, markersize=8, **edge)
    saving.explain(mark, point.tip)
    if point.published is not None:
        axes.plot(point.x, point.published, shape, color="none", markersize=7, markeredgecolor=colour)


def _set_limits(axes: Axes, points: Sequence[Point], reference: tuple[float, str] | None) -> None:
    """From zero if the values are of the same order, so that distances are to scale; otherwise logarithmic."""
    values = [x for point in points for x in (point.x, point.native_x) if x is not None] + (
        [reference[0]] if reference is not None else []
    )
    ends = [end for point in points for end in point.x_range or ()]
    values += [end for end in ends if min(values) / 2 <= end <= max(values) * 1.5]  # longer whiskers are cut
    if max(values) > 20 * min(values) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 1.6, max(values) * 2.2)
    else:
        axes.set_xlim(0, max(values) * 1.18)
    top = max(max(point.y_range[1], point.published or 0) for point in points)
    axes.set_ylim(0, max(top * 1.12, 1))


def _draw_reference(axes: Axes, x: float, name: str) -> Annotation:
    """Draw a vertical line and return its name."""
    axes.axvline(x, color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    return axes.annotate(
        name,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -2),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="top",
        color=style.MUTED,
        fontsize=8,
    )


def _reference_segments(axes: Axes, x: float, text: Annotation) -> list[Segment]:
    """The reference line, and the edge of its name."""
    box = text.get_window_extent().transformed(axes.transData.inverted())
    return [([x, x], [*axes.get_ylim()]), ([box.x0, box.x0], [box.y0, box.y1])]


def _label_points(axes: Axes, points: Sequence[Point], segments: Sequence[Segment]) -> None:
    """Write each name near its point, clear of all marks and ``segments``."""
    import textalloc

    marks = [(p.x, p.y) for p in points] + [(p.x, p.published) for p in points if p.published is not None]
    marks += [(p.native_x, p.y) for p in points if p.native_x is not None]
    textalloc.allocate(
        axes,
        [point.x for point in points],
        [point.y for point in points],
        [point.name for point in points],
        x_scatter=[x for x, _ in marks],
        y_scatter=[y for _, y in marks],
        scatter_sizes=[MARK_RADIUS] * len(marks),  # type: ignore[list-item]  # one number for each mark
        text_scatter_sizes=[MARK_RADIUS - 2] * len(points),  # type: ignore[list-item]
        x_lines=[x for x, _ in segments],
        y_lines=[y for _, y in segments],
        textsize=LABEL_SIZE,
        textcolor=style.INK,
        linecolor=style.MUTED,
        linewidth=0.6,
        margin=0.004,
        min_distance=0.008,
        max_distance=0.3,
        nbr_candidates=1000,
        va="bottom",
    )
