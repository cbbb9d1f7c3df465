"""The study as data: ``table.csv``, and what DVC compares and plots, ``metrics/<setting>.json`` and ``curves.csv``.

What was not measured is ``None``, an empty field in a CSV file.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tasks import outputs, paths
from tasks.report import machines
from tasks.report.results import SettingResult

Value = str | int | float | None
TEXTS = ("setting", "hardware", "runtime")
INTEGERS = (
    *("groups", "condensation_factor", "test_images", "macs", "paper_flops", "params", "file_bytes"),
    *("latency_batch", "latency_threads"),
)
CURVES = ("epoch", "condensing_stage", "train_loss", "train_error_pct", "validation_loss", "validation_error_pct")
HEADLINE = (
    *("test_error_pct", "macs", "paper_flops", "params", "latency_ms", "latency_ratio", "file_bytes"),
    "test_top5_error_pct",
)
OTHER_FORMS = tuple(
    f"{name}_{form}" for form in paths.ALL_FORMS if form != paths.LOWERED for name in ("latency_ms", "latency_ratio")
)
COMPARED = {  # name in `dvc metrics show`, whose table is to fit a terminal -> (name in the table, its digits)
    "G": ("groups", None),
    "C": ("condensation_factor", None),
    "error_pct": ("test_error_pct", ".2f"),
    "macs": ("macs", None),
    "params": ("params", None),
    "ms": ("latency_ms", ".4g"),
    "ratio": ("latency_ratio", ".2f"),
}


def make_row(result: SettingResult) -> dict[str, Value]:
    """A row of ``table.csv``: the cost of the grouped form, and every form's latency at batch 1 on one thread."""
    metrics, latency = result.metrics, result.latency_row() or {}
    row: dict[str, Value] = {
        "setting": result.name,
        "groups": result.setting.model.groups_1x1,
        "condensation_factor": result.setting.model.condensation_factor,
        **{name: metrics.get(name) for name in HEADLINE},
        "test_images": (result.evaluation or {}).get("images"),
        "latency_p10_ms": latency.get("p10_ms"),
        "latency_p90_ms": latency.get("p90_ms"),
        **{name: metrics.get(name) for name in OTHER_FORMS},
        "yardstick_latency_ms": latency.get("yardstick_median_ms"),
        "latency_batch": latency.get("batch"),
        "latency_threads": latency.get("threads"),
        "hardware": machines.hardware(result.latency or {}) if latency else None,
        "runtime": machines.runtime(result.latency or {}) if latency else None,
    }
    return {name: int(value) if name in INTEGERS and value is not None else value for name, value in row.items()}


def read_table(path: Path) -> list[dict[str, Value]]:
    """The rows of ``table.csv`` with their types."""
    return [{name: _typed(name, text) for name, text in row.items()} for row in outputs.read_csv(path)]


def _typed(name: str, text: str) -> Value:
    if text == "":
        return None
    if name in TEXTS:
        return text
    return int(text) if name in INTEGERS else float(text)


def write_table(results: Sequence[SettingResult], folder: Path) -> None:
    """``table.csv``: a row for each setting."""
    outputs.write_csv(folder / paths.TABLE, map(make_row, results))


def write_curves(results: Sequence[SettingResult], folder: Path) -> None:
    """``curves.csv``: a row for each setting and epoch."""
    rows = [
        {"setting": result.name, **{name: f"{row[name]:g}" for name in CURVES}}
        for result in results
        for row in result.history
    ]
    outputs.write_csv(folder / paths.CURVES, rows, names=("setting", *CURVES))


def write_metrics(results: Sequence[SettingResult], folder: Path) -> None:
    """``metrics/<setting>.json``: the figures that DVC compares; what was not measured is left out."""
    shutil.rmtree(folder / paths.ROWS, ignore_errors=True)
    for result in results:
        row = make_row(result)
        figures = {name: (row[column], digits) for name, (column, digits) in COMPARED.items()}
        measured = {
            name: float(f"{value:{digits}}") if digits else value
            for name, (value, digits) in figures.items()
            if value is not None
        }
        outputs.write_json(folder / paths.ROWS / f"{result.name}.json", measured)
