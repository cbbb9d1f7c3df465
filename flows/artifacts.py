"""What a flow shows at its end: artifacts in the Prefect UI, one table at the terminal."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from tasks import paths
from tasks.params import Params

COLUMNS = {  # of table.csv: heading at the terminal, how a value is shown
    "setting": ("setting", "{}"),
    "groups": ("G", "{}"),
    "condensation_factor": ("C", "{}"),
    "test_error_pct": ("error %", "{:.2f}"),
    "macs": ("MACs", "{:,.0f}"),
    "paper_flops": ("paper's FLOPs", "{:,.0f}"),
    "params": ("params", "{:,.0f}"),
    "latency_ms": ("latency ms", "{:.3f}"),
    "latency_ratio": ("x MobileNetV1", "{:.2f}"),
    "file_bytes": ("file kB", "{:,.1f}"),
}


def publish(params: Params) -> None:
    """The report's table and text as Prefect artifacts of the run that is under way."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    report = params.paths.report
    name = re.sub(r"[^a-z0-9]+", "-", params.study.lower()).strip("-")
    if (report / paths.TABLE).is_file():
        create_table_artifact(
            key=f"reproduce-{name}-table", table=rows(report / paths.TABLE), description=f"{params.study}: the table"
        )
    if (report / paths.REPORT_MD).is_file():
        text = (report / paths.REPORT_MD).read_text()
        create_markdown_artifact(key=f"reproduce-{name}-report", markdown=text, description=f"{params.study}: report")


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(table: Path) -> str:
    """``table.csv`` as aligned text."""
    body = [[_shown(row, name) for name in COLUMNS] for row in rows(table)]
    lines = [[heading for heading, _ in COLUMNS.values()], *body]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _shown(row: dict[str, str], name: str) -> str:
    raw, form = row.get(name) or "", COLUMNS[name][1]
    if raw == "" or form == "{}":
        return raw or "-"
    value = float(raw)
    return form.format(value / 1000 if name == "file_bytes" else value)
