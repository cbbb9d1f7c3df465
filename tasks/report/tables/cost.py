"""Exact counts, and how far the logits of the forms are apart."""

from __future__ import annotations

from tasks.report.formats import exact_count, short_count, small_difference
from tasks.report.results import SettingResult, Study
from tasks.report.tables.cells import SETTING, Column, Table, setting_rows

COLUMNS = (
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
NOTE = (
    "Differences are between the logits. The counts of the training form leave out pruned weights. "
    "The index layer of the grouped form has no trained parameters."
)


def cost_table(study: Study) -> Table:
    notes = [NOTE]
    if study.yardstick is not None:
        macs, params = (short_count(study.yardstick[name]) for name in ("macs", "params"))
        notes.append(f"At this input size MobileNetV1 has {macs} MACs and {params} parameters.")
    return Table("Exact cost, and agreement of all forms", COLUMNS, setting_rows(study, _values), notes)


def _values(result: SettingResult) -> list[str]:
    training, export = (result.cost or {}).get("training", {}), result.export or {}
    return [
        *(exact_count(result.metrics.get(name)) for name in ("macs", "paper_flops", "params")),
        *(exact_count(training.get(name)) for name in ("macs", "params")),
        small_difference((result.cost or {}).get("max_relative_difference")),
        small_difference(export.get("max_relative_difference")),
        exact_count(export.get("images_compared")),
        exact_count((result.evaluation or {}).get("disagreements")),
    ]
