"""The forms of the exported model, and every latency that was measured."""

from __future__ import annotations

from collections.abc import Iterator

from tasks import paths
from tasks.report import formats
from tasks.report.machines import machine_notes
from tasks.report.results import Json, SettingResult, Study
from tasks.report.summary import make_row
from tasks.report.tables.cells import DASH, SETTING, Column, Table, percentiles, setting_groups

FORM_COLUMNS = (
    SETTING,
    Column("form", is_text=True),
    Column("against PyTorch", "max relative difference"),
    Column("test error", "%, top-1"),
    Column("latency", "ms, batch 1\n1 thread"),
    Column("ratio to MobileNetV1"),
    Column("file"),
    Column("remark", is_text=True),
)
FORM_NOTE = (
    "lowered: standard operators, rewritten by a plan; this is the exported model.onnx. plain: the same network as "
    "PyTorch exports it. native: this package's compiled operators. int8: quantized after training, so it is another "
    "function with an error of its own."
)
LATENCY_COLUMNS = (
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


def form_table(study: Study) -> Table:
    """The latency of every form at batch 1 on one thread, and why a form was left out."""
    rows = setting_groups(study, len(FORM_COLUMNS), _form_rows)
    return Table("Forms of the exported model", FORM_COLUMNS, rows, [FORM_NOTE])


def _form_rows(result: SettingResult) -> Iterator[list[str]]:
    export = result.export or {}
    for form, facts in export.get("forms", {}).items():
        row, kept = result.latency_row(form) or {}, facts["kept"]
        yield [
            form,
            formats.small_difference(facts["max_relative_difference"]) if "max_relative_difference" in facts else DASH,
            _form_error(result, form),
            formats.milliseconds(row.get("median_ms")) if kept else DASH,
            formats.ratio(row.get("ratio")) if kept else DASH,
            formats.file_size(facts["file_bytes"]) if kept else DASH,
            _remark(export, form, facts),
        ]


def _form_error(result: SettingResult, form: str) -> str:
    """Only for the files that evaluate runs; the logits of the others were compared when they were exported."""
    name = {paths.LOWERED: "test_error_pct", paths.INT8: "test_error_pct_int8"}.get(form, "")
    error = result.metrics.get(name)
    return DASH if error is None else formats.percent(error)


def _remark(export: Json, form: str, facts: Json) -> str:
    if not facts["kept"]:
        return f"not kept: {facts['why']}"
    return f"plan: {export['plan']}" if form == paths.LOWERED else facts.get("why", "")


def latency_table(study: Study) -> Table:
    """Every batch size and thread count, with MobileNetV1 timed in turn."""
    rows = setting_groups(
        study,
        len(LATENCY_COLUMNS),
        lambda result: (_latency_values(row) for row in (result.latency or {}).get("rows", ())),
    )
    protocols = {_protocol(result.latency) for result in study.results if result.latency is not None}
    notes = [*sorted(protocols), *machine_notes(map(make_row, study.results))]
    return Table("All latencies", LATENCY_COLUMNS, rows, notes)


def _latency_values(row: Json) -> list[str]:
    return [
        row.get("form", paths.LOWERED),
        str(row["batch"]),
        str(row["threads"]),
        formats.milliseconds(row["median_ms"]),
        percentiles(row, "", formats.milliseconds, "_ms"),
        formats.milliseconds(row["yardstick_median_ms"]),
        percentiles(row, "yardstick_", formats.milliseconds, "_ms"),
        formats.ratio(row["ratio"]),
        percentiles(row, "ratio_", formats.ratio),
        f"{row['images_per_second']:,.0f}",
    ]


def _protocol(latency: Json) -> str:
    protocol = latency.get("protocol", {})
    size = protocol.get("input_size")
    shape = "×".join(map(str, size)) if isinstance(size, list | tuple) else size
    return (
        f"{protocol.get('runs')} timed runs after {protocol.get('warmup')} for warm-up, forms and MobileNetV1 in turn, "
        f"input {shape}."
    )
