"""What DVC reads: ``dvc plots`` the epochs of all settings in one table, ``dvc metrics`` a file a setting."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tasks import outputs, paths
from tasks.report.read import SettingResult
from tasks.report.table import make_row

BY_EPOCH = ("epoch", "condensing_stage", "train_loss", "train_error_pct", "validation_loss", "validation_error_pct")
AFTER_TRAINING = ("epochs", "train_loss", "train_error_pct", "validation_error_pct", "seconds")
AS_IN_TABLE = (
    *("test_error_pct", "test_top5_error_pct", "macs", "paper_flops", "params"),
    *("latency_ms", "latency_ratio", "latency_ms_plain", "latency_ratio_plain", "file_bytes"),
)


def write_curves(results: Sequence[SettingResult], folder: Path) -> None:
    """``curves.csv``: a row an epoch and setting, in the order of the settings."""
    rows = [
        {"setting": result.name, **{name: f"{row[name]:g}" for name in BY_EPOCH}}
        for result in results
        for row in result.history
    ]
    outputs.write_csv(folder / paths.CURVES, rows)


def write_metrics(results: Sequence[SettingResult], folder: Path) -> None:
    """``metrics/<setting>.json``: the headline figures; what was not measured is left out."""
    shutil.rmtree(folder / paths.ROWS, ignore_errors=True)
    for result in results:
        row, trained = make_row(result), result.train or {}
        figures = {key: row[key] for key in AS_IN_TABLE} | {key: trained.get(key) for key in AFTER_TRAINING}
        known = {key: value for key, value in figures.items() if value is not None}
        outputs.write_json(folder / paths.ROWS / f"{result.name}.json", known)
