"""The report's table and text as artifacts in the Prefect UI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks import paths
from tasks.params import Params
from tasks.report.summary import read_table


def publish(params: Params) -> None:
    """Attach them to the current flow run. Each run adds a version under the study's key."""
    table, report = params.paths.report / paths.TABLE, params.paths.report / paths.REPORT_MD
    if table.is_file():
        create_table_artifact(
            key=artifact_key(params.study, "table"),
            table=[legible(row) for row in read_table(table)],
            description=f"The settings of the study {params.study}: {table}",
        )
    if report.is_file():
        create_markdown_artifact(
            key=artifact_key(params.study, "report"),
            markdown=report.read_text(encoding="utf-8"),
            description=f"The report of the study {params.study}: {report}",
        )


def legible(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with fractions to four significant digits: Prefect's page shows all it gets. The files keep all."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}


def artifact_key(study: str, kind: str) -> str:
    """Prefect allows lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", f"reproduce-{study.lower()}-{kind}")
