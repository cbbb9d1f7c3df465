"""All figures of one report: which there are, what each says in words, and their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.report import units
from tasks.report.charts import CURVES_PER_ROW, Point, measured_split, scatter, training_curves
from tasks.report.connections import LayerConnections, connections
from tasks.report.maps import kept_strips, layer_map
from tasks.report.published import Published, dataset_of
from tasks.report.read import SettingResult, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure; ``label`` says for a screen reader what it shows, ``setting`` is whose it is ("" for all)."""

    key: str
    caption: str
    label: str
    figure: Figure
    setting: str = ""
    is_long: bool = False  # folded away in the page


def scatters(study: Study, published: Published) -> list[Picture]:
    """Error against MACs and error against latency; a figure without any point is left out."""
    found = []
    points = [p for p in (_cost_point(study, index, published) for index in range(len(study.results))) if p]
    if points:
        scale, word = next(((size, word) for size, word in UNITS if max(p.x for p in points) >= size), (1.0, ""))
        figure = scatter(points, x_label=f"MACs, {word}".rstrip(", "), scale=scale)
        found.append(_scatter_picture("error-macs", "Error against MACs", points, "MACs", units.count, figure))
    points = [p for p in (_latency_point(study, index) for index in range(len(study.results))) if p]
    if points:
        figure = scatter(points, x_label="latency, ms (batch 1, 1 thread)", scale=1.0, line=_yardstick(study))
        picture = _scatter_picture("error-latency", "Error against latency", points, "ms", units.milliseconds, figure)
        found.append(picture)
    return found


def _cost_point(study: Study, index: int, published: Published) -> Point | None:
    result = study.results[index]
    if result.cost is None or result.evaluation is None:
        return None
    dataset = dataset_of(study.params)
    match = published.match(result.setting.model, dataset)
    known = match.first(f"{dataset}_error_pct") if match is not None else None
    macs = result.cost["grouped"]["macs"]
    return _point(result, index, macs, None, known.value if known is not None and known.mark == "V" else None)


def _latency_point(study: Study, index: int) -> Point | None:
    result = study.results[index]
    row = result.latency_row()
    if row is None or result.evaluation is None:
        return None
    return _point(result, index, row["median_ms"], (row["p10_ms"], row["p90_ms"]), None)


def _point(
    result: SettingResult, index: int, x: float, x_range: tuple[float, float] | None, published: float | None
) -> Point:
    assert result.evaluation is not None
    error = result.evaluation["onnxruntime"]["top1_error_pct"]
    interval = units.wilson_interval_pct(error, result.evaluation["images"])
    return Point(name=result.name, index=index, x=x, y=error, x_range=x_range, y_range=interval, published=published)


def _yardstick(study: Study) -> tuple[float, str] | None:
    """The median over the settings of MobileNetV1's latency, each taken in turn with its setting."""
    rows = [row for row in (result.latency_row() for result in study.results) if row is not None]
    values = sorted(row["yardstick_median_ms"] for row in rows)
    return (values[len(values) // 2], "MobileNetV1") if values else None


def _scatter_picture(key: str, caption: str, points: list[Point], unit: str, form: object, figure: Figure) -> Picture:
    said = "; ".join(f"{p.name}: {form(p.x)} {unit}, {p.y:.2f}%" for p in points)  # type: ignore[operator]
    return Picture(key=key, caption=caption, label=f"{caption}. {said}", figure=figure)


def curves(study: Study) -> list[Picture]:
    """Loss and error by epoch, four settings a figure, with the same axes in all of them."""
    results = [result for result in study.results if result.history]
    loss, error = _loss_range(results), _error_top(results)
    found = []
    for start in range(0, len(results), CURVES_PER_ROW):
        part = results[start : start + CURVES_PER_ROW]
        said = "; ".join(
            f"{r.name} ends at {r.history[-1]['validation_error_pct']:.2f}% on {measured_split(r)} images" for r in part
        )
        figure = training_curves(part, loss_range=loss, error_top=error)
        label = f"Loss and error by epoch. {said}"
        caption = "Training curves" if start == 0 else "Training curves, continued"
        found.append(Picture(key=f"curves-{start}", caption=caption, label=label, figure=figure))
    return found


def _values(results: list[SettingResult], quantity: str) -> list[float]:
    """All values of the curves, in order of size."""
    parts = ("train", "validation")
    values = [row[f"{part}_{quantity}"] for r in results for row in r.history for part in parts]
    return sorted(value for value in values if 0 <= value < float("inf"))


def _loss_range(results: list[SettingResult]) -> tuple[float, float]:
    """The ends of the logarithmic axis of the loss."""
    values = [value for value in _values(results, "loss") if value > 1e-6] or [0.1, 1.0]
    return values[0] / 1.3, values[-1] * 1.3


def _error_top(results: list[SettingResult]) -> float:
    """The upper end of the axis of the error: the first epochs, near to guessing, must not flatten all the rest."""
    values = _values(results, "error_pct") or [100.0]
    return min(100.0, max(1.3 * values[int(0.88 * (len(values) - 1))], 2.0))


def connection_maps(study: Study) -> list[Picture]:
    """For each setting the map layer by source and the strips of every single input."""
    found = []
    for result in study.results:
        if not result.kept:
            continue
        layers = connections(result.setting.model, result.kept)
        said = (
            f"{result.name}: {len(layers)} layers keep {100 * mean_share(layers):.0f}% of their connections on average"
        )
        found.append(
            Picture(
                key=f"map-{result.name}",
                caption="Layer by source",
                label=f"Map of kept connections, layer by source. {said}",
                figure=layer_map(layers),
                setting=result.name,
            )
        )
        if result.setting.model.condensation_factor == 1:
            continue  # every input is kept
        found.append(
            Picture(
                key=f"strips-{result.name}",
                caption="Every input, by group",
                label=f"Kept inputs of every layer, a row for each group. {said}",
                figure=kept_strips(layers),
                setting=result.name,
                is_long=len(layers) > 12,
            )
        )
    return found


def mean_share(layers: list[LayerConnections]) -> float:
    """The mean over layers of the share of their connections that was kept."""
    shares = [sum(map(len, each.layer.kept)) / (len(each.layer.kept) * each.layer.in_channels) for each in layers]
    return sum(shares) / len(shares)
