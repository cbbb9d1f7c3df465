"""The report's tables, free of markup: the page and the Markdown file both render them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks import paths
from tasks.report import units
from tasks.report.published import Figure, Published, PublishedModel, dataset_of
from tasks.report.read import Json, SettingResult, Study
from tasks.report.table import machines

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """A value as text; ``detail`` is smaller print after it; ``index`` is a setting's number, for its colour.

    A line break in small print is a comma where there is one line only.
    """

    text: str
    detail: str = ""
    index: int | None = None

    @property
    def is_missing(self) -> bool:
        return self.text == units.NOT_RUN


@dataclass(frozen=True)
class Column:
    title: str
    unit: str = ""
    is_text: bool = False
    is_published: bool = False  # set apart from what was measured


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default_factory=tuple)


SETTING = Column("setting", is_text=True)


def headline(study: Study, published: Published) -> Table:
    """One row a setting: what a reader chooses by."""
    columns = (
        SETTING,
        Column("G"),
        Column("C"),
        Column("test error", "%, top-1\n95% interval"),
        Column("published error", "%, top-1", is_published=True),
        Column("top-5 error", "%"),
        Column("MACs"),
        Column("paper's FLOPs"),
        Column("parameters"),
        Column("latency", "ms, batch 1\n1 thread, p10–p90"),
        Column("ratio to MobileNetV1", "p10–p90"),
        Column("plain export", "ms\nratio"),
        Column("throughput", "images/s"),
        Column("ONNX file"),
    )
    rows = [_headline_row(result, index, study, published) for index, result in enumerate(study.results)]
    return Table("All settings", columns, rows, [*_headline_notes(study), *_published_note(rows, 4, published)])


def _headline_row(result: SettingResult, index: int, study: Study, published: Published) -> list[Cell]:
    model, cost = result.setting.model, (result.cost or {}).get("grouped", {})
    dataset = dataset_of(study.params)
    match = published.match(model, dataset)
    latency = result.latency_row()
    return [
        Cell(result.name, index=index),
        Cell(str(model.groups_1x1)),
        Cell(str(model.condensation_factor)),
        error_cell(result, "top1_error_pct"),
        Cell(published_text(match, f"{dataset}_error_pct")),
        Cell(units.percent(_accuracy(result).get("top5_error_pct"))),
        Cell(units.count(cost.get("macs"))),
        Cell(units.count(cost.get("paper_flops"))),
        Cell(units.count(cost.get("params"))),
        Cell(units.milliseconds((latency or {}).get("median_ms")), _spread(latency, "", units.milliseconds, "_ms")),
        Cell(units.ratio((latency or {}).get("ratio")), _spread(latency, "ratio_", units.ratio)),
        _plain(result),
        _throughput(result),
        Cell(units.file_size((result.export or {}).get("file_bytes"))),
    ]


def _accuracy(result: SettingResult) -> Json:
    return (result.evaluation or {}).get("onnxruntime", {})


def error_cell(result: SettingResult, name: str) -> Cell:
    """A test error with its 95% interval (Wilson)."""
    error = _accuracy(result).get(name)
    if error is None:
        return Cell(units.NOT_RUN)
    low, high = units.wilson_interval_pct(error, result.evaluation["images"])  # type: ignore[index]
    return Cell(units.percent(error), f"{low:.1f}–{high:.1f}")


def _spread(row: Json | None, prefix: str, form: object, suffix: str = "") -> str:
    if row is None:
        return ""
    low, high = (row[f"{prefix}{edge}{suffix}"] for edge in ("p10", "p90"))
    return f"{form(low)}–{form(high)}"  # type: ignore[operator]


def _plain(result: SettingResult) -> Cell:
    """The same network as torch.onnx writes it: what lowering gained."""
    row = result.latency_row(form=paths.PLAIN)
    return Cell(units.NOT_RUN) if row is None else Cell(units.milliseconds(row["median_ms"]), units.ratio(row["ratio"]))


def _throughput(result: SettingResult) -> Cell:
    """The fastest row of the largest batch."""
    rows = result.latency_rows()
    if not rows:
        return Cell(units.NOT_RUN)
    row = max(rows, key=lambda row: (row["batch"], row["images_per_second"]))
    return Cell(f"{row['images_per_second']:,.0f}", f"batch {row['batch']}\n{_threads(row['threads'])}")


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number != 1 else ''}"


def _headline_notes(study: Study) -> list[str]:
    notes = [
        "MACs (one multiply-add each), the paper's FLOPs and the parameters are those of the grouped form, which is "
        "what is exported and timed. The paper's FLOPs count one more per ReLU element, and the average pools.",
    ]
    images = sorted({result.evaluation["images"] for result in study.results if result.evaluation is not None})
    if images:
        count = " or ".join(f"{number:,}" for number in images)
        notes.append(f"Test error over {count} test images; the 95% interval is Wilson's.")
    if any(result.latency_row() for result in study.results):
        notes.append(
            "Latency is the median over the timed runs of the exported (lowered) file; the ratio is the median, run by "
            "run, of the time divided by that of MobileNetV1, timed in turn with it. "
            + " ".join(machines(study.results))
        )
    return notes


def _published_note(rows: Sequence[Sequence[Cell]], column: int, published: Published) -> list[str]:
    texts = [row[column].text for row in rows]
    if all(text == DASH for text in texts):
        return ["Nothing was published for these networks on this data set: –."]
    return mark_notes(published) if any("[" in text for text in texts) else []


def mark_notes(published: Published) -> list[str]:
    return [f"[{mark}] {text}." for mark, text in published.marks.items() if mark != "V"]


def published_text(model: PublishedModel | None, name: str) -> str:
    """The published figures of one cell; what was not read at its source carries its mark."""
    found = model.figures.get(name, ()) if model is not None else ()
    return "; ".join(figure_text(figure, name) for figure in found) or DASH


def figure_text(figure: Figure, name: str) -> str:
    if name.endswith("_pct"):
        text = f"{figure.value:.2f}" if name.startswith("cifar") else f"{figure.value:.1f}"
    elif name.endswith("_s"):
        text = f"{figure.value:g}"
    else:
        text = units.published_count(figure.value)
    return text if figure.mark == "V" else f"{text} [{figure.mark}]"


def latency(study: Study) -> Table:
    """Every batch and thread count, with the yardstick measured in turn."""
    columns = (
        SETTING,
        Column("form", is_text=True),
        Column("batch"),
        Column("threads"),
        Column("median", "ms"),
        Column("p10–p90", "ms"),
        Column("MobileNetV1 median", "ms"),
        Column("MobileNetV1 p10–p90", "ms"),
        Column("ratio"),
        Column("ratio p10–p90"),
        Column("images/s"),
    )
    rows = []
    for index, result in enumerate(study.results):
        measured = (result.latency or {}).get("rows", ())
        rows += [_latency_row(result, index, row) for row in measured] or [not_run_row(result, index, len(columns))]
    protocols = {_protocol(result.latency) for result in study.results if result.latency is not None}
    return Table("Latency in full", columns, rows, [*sorted(protocols), *machines(study.results)])


def not_run_row(result: SettingResult, index: int, width: int) -> list[Cell]:
    return [Cell(result.name, index=index), *[Cell(units.NOT_RUN)] * (width - 1)]


def _protocol(found: Json) -> str:
    protocol = found.get("protocol", {})
    size = protocol.get("input_size")
    shape = "×".join(map(str, size)) if isinstance(size, list | tuple) else size
    return (
        f"{protocol.get('runs')} timed runs after {protocol.get('warmup')} for warm-up, forms and MobileNetV1 in turn, "
        f"input {shape}."
    )


def _latency_row(result: SettingResult, index: int, row: Json) -> list[Cell]:
    return [
        Cell(result.name, index=index),
        Cell(row.get("form", paths.LOWERED)),
        Cell(str(row["batch"])),
        Cell(str(row["threads"])),
        Cell(units.milliseconds(row["median_ms"])),
        Cell(_spread(row, "", units.milliseconds, "_ms")),
        Cell(units.milliseconds(row["yardstick_median_ms"])),
        Cell(_spread(row, "yardstick_", units.milliseconds, "_ms")),
        Cell(units.ratio(row["ratio"])),
        Cell(_spread(row, "ratio_", units.ratio)),
        Cell(f"{row['images_per_second']:,.0f}"),
    ]


def costs(study: Study) -> Table:
    """Both forms to the last digit, and the proofs that all forms compute the same."""
    columns = (
        SETTING,
        Column("MACs", "grouped form"),
        Column("paper's FLOPs", "grouped form"),
        Column("parameters", "grouped form"),
        Column("MACs", "training form"),
        Column("parameters", "training form"),
        Column("grouped against training form", "max relative difference"),
        Column("ONNX against PyTorch", "max relative difference"),
        Column("images compared"),
        Column("different answers", "PyTorch, ONNX Runtime"),
    )
    rows = [_cost_row(result, index) for index, result in enumerate(study.results)]
    notes = [
        "Differences are between the logits. The counts of the training form take dropped weights as removed. "
        "The index layer of the grouped form has no trained parameters."
    ]
    if study.yardstick is not None:
        yardstick = study.yardstick
        notes.append(
            f"The yardstick MobileNetV1 has {units.count(yardstick['macs'])} MACs and "
            f"{units.count(yardstick['params'])} parameters at this input size."
        )
    return Table("Cost to the last digit, and equality of all forms", columns, rows, notes)


def _cost_row(result: SettingResult, index: int) -> list[Cell]:
    cost, export = result.cost or {}, result.export or {}
    one, other = cost.get("grouped", {}), cost.get("training", {})
    return [
        Cell(result.name, index=index),
        *(Cell(units.grouped(one.get(key))) for key in ("macs", "paper_flops", "params")),
        *(Cell(units.grouped(other.get(key))) for key in ("macs", "params")),
        Cell(units.small(cost.get("max_relative_difference"))),
        Cell(units.small(export.get("max_relative_difference"))),
        Cell(units.grouped(export.get("images_compared"))),
        Cell(units.grouped((result.evaluation or {}).get("disagreements"))),
    ]
