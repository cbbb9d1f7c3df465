"""What a reader chooses a setting by: one row each, and the comparison in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from tasks import paths
from tasks.report import formats
from tasks.report.machines import machine_notes
from tasks.report.published import Published, dataset_of
from tasks.report.results import SettingResult, Study
from tasks.report.summary import make_row
from tasks.report.tables.cells import DASH, NOT_RUN, SETTING, Cell, Column, Table, percentiles, setting_rows
from tasks.report.tables.literature import published_text

TOP5 = 5  # classes, up to which the right one always is among the five likeliest
TOP5_ERROR = Column("top-5 error", "%")
COLUMNS = (
    SETTING,
    Column("G"),
    Column("C"),
    Column("test error", "%, top-1\n95% interval"),
    Column("published error", "%, top-1", is_published=True),
    TOP5_ERROR,
    Column("MACs"),
    Column("paper's FLOPs"),
    Column("parameters"),
    Column("latency", "ms, batch 1\n1 thread, p10–p90"),
    Column("ratio to MobileNetV1", "p10–p90"),
    Column("plain export", "ms\nratio"),
    Column("throughput", "images/s"),
    Column("ONNX file"),
)


def overview_table(study: Study, published: Published) -> Table:
    rows = setting_rows(study, lambda result: _values(result, study, published))
    notes = [*_notes(study), *_published_notes(rows)]
    few = study.manifest is not None and len(study.manifest["classes"]) <= TOP5
    shown = [index for index, column in enumerate(COLUMNS) if not (few and column is TOP5_ERROR)]
    return Table("All settings", [COLUMNS[i] for i in shown], [[row[i] for i in shown] for row in rows], notes)


def _values(result: SettingResult, study: Study, published: Published) -> list[Cell | str]:
    model, metrics, latency = result.setting.model, result.metrics, result.latency_row()
    dataset = dataset_of(study.params)
    return [
        str(model.groups_1x1),
        str(model.condensation_factor),
        _error(result),
        published_text(published.match(model, dataset), f"{dataset}_error_pct"),
        formats.percent(metrics.get("test_top5_error_pct")),
        formats.short_count(metrics.get("macs")),
        formats.short_count(metrics.get("paper_flops")),
        formats.short_count(metrics.get("params")),
        Cell(formats.milliseconds(metrics.get("latency_ms")), percentiles(latency, "", formats.milliseconds, "_ms")),
        Cell(formats.ratio(metrics.get("latency_ratio")), percentiles(latency, "ratio_", formats.ratio)),
        _plain_export(result),
        _throughput(result),
        formats.file_size(metrics.get("file_bytes")),
    ]


def _error(result: SettingResult) -> Cell:
    """The test error with its 95% interval (Wilson)."""
    interval = result.error_interval_pct
    detail = "" if interval is None else f"{interval[0]:.1f}–{interval[1]:.1f}"
    return Cell(formats.percent(result.metrics.get("test_error_pct")), detail)


def _plain_export(result: SettingResult) -> Cell:
    """The same network as torch.onnx writes it, which shows what lowering gains."""
    name, metrics = paths.PLAIN, result.metrics
    if f"latency_ms_{name}" not in metrics:
        return NOT_RUN
    return Cell(formats.milliseconds(metrics[f"latency_ms_{name}"]), formats.ratio(metrics[f"latency_ratio_{name}"]))


def _throughput(result: SettingResult) -> Cell:
    """The fastest row of the largest batch."""
    rows = result.latency_rows()
    if not rows:
        return NOT_RUN
    row = max(rows, key=lambda row: (row["batch"], row["images_per_second"]))
    threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
    return Cell(f"{row['images_per_second']:,.0f}", f"batch {row['batch']}\n{threads}")


def _notes(study: Study) -> list[str]:
    notes = [
        "MACs (one multiply-add each), the paper's FLOPs and the parameters are those of the grouped form, which is "
        "what is exported and timed. The paper's FLOPs add one per ReLU element, and the average pooling."
    ]
    images = sorted({result.evaluation["images"] for result in study.results if result.evaluation is not None})
    if images:
        count = " or ".join(f"{number:,}" for number in images)
        notes.append(f"Test error on {count} test images, with Wilson's 95% interval.")
    machines = machine_notes(map(make_row, study.results))
    if machines:
        notes.append(
            "Latency is the median over the timed runs of the exported (lowered) file. MobileNetV1 is timed in turn "
            f"with it, and the ratio is the median of the ratios run by run. {' '.join(machines)}"
        )
    return notes


def _published_notes(rows: Sequence[Sequence[Cell]]) -> list[str]:
    if all(row[4].text == DASH for row in rows):
        return ["Nothing has been published for these networks on this data set."]
    return []


def comparison(study: Study) -> str:
    """The setting with the fewest MACs against the one with the most: what it saves, and what got worse by it."""
    evaluated = [result for result in study.results if result.cost is not None and result.evaluation is not None]
    if len(evaluated) < 2:
        return ""
    macs = [result.metrics["macs"] for result in evaluated]
    large, small = evaluated[macs.index(max(macs))], evaluated[macs.index(min(macs))]
    sentence = (
        f"{small.name} needs {100 * min(macs) / max(macs):.0f}% of the multiply-adds of {large.name}, at a test error "
        f"of {small.metrics['test_error_pct']:.2f}% against {large.metrics['test_error_pct']:.2f}%"
    )
    return f"{sentence}{_overlap_note(small, large)}. {_price(small, large)}"


def _price(small: SettingResult, large: SettingResult) -> str:
    worse = _what_got_worse(small, large)
    unmeasured = [result.name for result in (small, large) if result.metrics.get("latency_ratio") is None]
    if worse:
        price = f"What got worse: {'; '.join(worse)}."
    else:
        price = "Its error is not worse." if unmeasured else "Neither its error nor its latency is worse."
    return f"{price} Latency was not measured for {' and '.join(unmeasured)}." if unmeasured else price


def _what_got_worse(small: SettingResult, large: SettingResult) -> list[str]:
    lines = []
    more_pct = small.metrics["test_error_pct"] - large.metrics["test_error_pct"]
    if more_pct > 0:
        lines.append(f"{more_pct:.2f} percentage points more error")
    pairs = {"": "latency_ratio", " in native form": f"latency_ratio_{paths.NATIVE}"}
    for form, name in pairs.items():
        own, other = small.metrics.get(name), large.metrics.get(name)
        if own is not None and other is not None and round(own, 2) > round(other, 2):
            lines.append(f"latency{form}, {own:.2f} times MobileNetV1's instead of {other:.2f}")
    return lines


def _overlap_note(one: SettingResult, other: SettingResult) -> str:
    intervals = one.error_interval_pct, other.error_interval_pct
    if intervals[0] is None or intervals[1] is None or one.evaluation is None:
        return ""
    overlap = max(low for low, _ in intervals) <= min(high for _, high in intervals)  # type: ignore[misc]
    return f"; with {one.evaluation['images']:,} test images the 95% intervals overlap" if overlap else ""
