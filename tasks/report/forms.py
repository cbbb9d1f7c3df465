"""The table of an exported model's forms: which were kept, how far each is from PyTorch, what each takes."""

from __future__ import annotations

from collections.abc import Iterator

from tasks import paths
from tasks.report import units
from tasks.report.content import DASH, SETTING, Cell, Column, Table, not_run_row
from tasks.report.read import Json, SettingResult, Study

NOTES = (
    "lowered: standard operators, rewritten by a plan; this is the exported model.onnx. plain: the same network as "
    "PyTorch exports it. native: an operator of this package, compiled. int8: quantized, another function, with an "
    "error of its own.",
)


def forms(study: Study) -> Table:
    """A row a setting and form; latencies of batch 1 on one thread."""
    columns = (
        SETTING,
        Column("form", is_text=True),
        Column("against PyTorch", "max relative difference"),
        Column("test error", "%, top-1"),
        Column("latency", "ms, batch 1\n1 thread"),
        Column("ratio to MobileNetV1"),
        Column("file"),
        Column("remark", is_text=True),
    )
    rows = []
    for index, result in enumerate(study.results):
        rows += list(_rows(result, index)) or [not_run_row(result, index, len(columns))]
    return Table("Forms of the exported model", columns, rows, NOTES)


def _rows(result: SettingResult, index: int) -> Iterator[list[Cell]]:
    export = result.export or {}
    for form, facts in export.get("forms", {}).items():
        row = result.latency_row(form=form) or {}
        kept = facts["kept"]
        yield [
            Cell(result.name, index=index),
            Cell(form),
            Cell(units.small(facts["max_relative_difference"]) if "max_relative_difference" in facts else DASH),
            _error(result, form),
            Cell(units.milliseconds(row.get("median_ms")) if kept else DASH),
            Cell(units.ratio(row.get("ratio")) if kept else DASH),
            Cell(units.file_size(facts["file_bytes"]) if kept else DASH),
            Cell(_remark(export, form, facts)),
        ]


def _error(result: SettingResult, form: str) -> Cell:
    """Of the files that evaluate runs; the others are shown by their logits to answer as the exported file does."""
    runtime = {paths.LOWERED: "onnxruntime", paths.INT8: paths.INT8}.get(form, "")
    found = (result.evaluation or {}).get(runtime)
    return Cell(DASH if found is None else units.percent(found["top1_error_pct"]))


def _remark(export: Json, form: str, facts: Json) -> str:
    if not facts["kept"]:
        return f"not kept: {facts['why']}"
    return f"plan: {export['plan']}" if form == paths.LOWERED else facts.get("why", "")
