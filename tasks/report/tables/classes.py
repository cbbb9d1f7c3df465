"""Test error by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.report.results import Study
from tasks.report.tables.cells import DASH, NOT_RUN, Cell, Column, Table, make_cells

MAX_CLASSES = 20

ClassRows = Mapping[str, Mapping[str, str]]  # the rows of a setting's per_class.csv by class


def class_table(study: Study) -> Table:
    """Errors of the exported file in ONNX Runtime; of many classes only the worst."""
    by_setting = [{row["class"]: row for row in result.per_class} for result in study.results]
    images = {name: int(row["images"]) for rows in by_setting for name, row in rows.items()}
    names = list(images)
    note = "Test error (top-1) of the exported file." if images else "Test error by class: not run."
    if len(images) > MAX_CLASSES:
        names = sorted(images, key=lambda name: -_mean_error(name, by_setting))[:MAX_CLASSES]
        note += f" The {MAX_CLASSES} classes with the highest error of {len(images):,}; per_class.csv has them all."
    columns = (Column("class", is_text=True), Column("images"), *(Column(r.name, "%") for r in study.results))
    rows = [make_cells([name, f"{images[name]:,}", *(_error(rows, name) for rows in by_setting)]) for name in names]
    return Table("Test error by class", columns, rows, [note])


def _mean_error(name: str, by_setting: Sequence[ClassRows]) -> float:
    """The mean over the settings; 0 for a class without test images, so that it comes last."""
    texts = [rows[name]["onnxruntime_error_pct"] for rows in by_setting if name in rows]
    errors = [float(text) for text in texts if text]
    return sum(errors) / len(errors) if errors else 0.0


def _error(rows: ClassRows, name: str) -> Cell:
    if name not in rows:
        return NOT_RUN
    error = rows[name]["onnxruntime_error_pct"]
    return Cell(f"{float(error):.1f}" if error else DASH)  # empty: the class has no test images
