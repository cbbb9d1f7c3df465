"""The report's table and text as artifacts in the Prefect UI."""

from __future__ import annotations

import re

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks import paths
from tasks.params import Params
from tasks.report.summary import read_table


def publish(params: Params) -> None:
    """Attach them to the flow run that is under way; a study's newest replace its last ones under the same key."""
    table, text = (params.paths.report / name for name in (paths.TABLE, paths.REPORT_MD))
    if table.is_file():
        create_table_artifact(
            key=artifact_key(params.study, "table"),
            table=[dict(row) for row in read_table(table)],
            description=f"The settings of the study {params.study}: {table}",
        )
    if text.is_file():
        create_markdown_artifact(
            key=artifact_key(params.study, "report"),
            markdown=text.read_text(encoding="utf-8"),
            description=f"The report of the study {params.study}: {text}",
        )


def artifact_key(study: str, what: str) -> str:
    """Prefect allows lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"reproduce-{study.lower()}-{what}")
