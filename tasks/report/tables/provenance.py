"""Where the figures come from: the executions and the data."""

from __future__ import annotations

from tasks.report import formats
from tasks.report.results import SettingResult, Study
from tasks.report.tables.cells import DASH, SETTING, Column, Table, setting_rows
from tasks.report.tables.training import split_note

COLUMNS = (
    SETTING,
    Column("started", "UTC", is_text=True),
    Column("git commit", is_text=True),
    Column("execution", is_text=True),
    Column("MLflow run", is_text=True),
    Column("stages not run", is_text=True),
)


def execution_table(study: Study) -> Table:
    """Which execution trained each setting."""
    return Table("Executions", COLUMNS, setting_rows(study, _values))


def _values(result: SettingResult) -> list[str]:
    run = result.run or {}
    return [
        str(run.get("started_at") or formats.NOT_RUN).replace("T", " ")[:19],
        str(run.get("git_commit") or DASH)[:12],
        str(run.get("execution_id") or formats.NOT_RUN),
        str(run.get("mlflow_run_id") or DASH),
        ", ".join(result.missing) or DASH,
    ]


def data_facts(study: Study) -> list[tuple[str, str]]:
    """Name and value of what identifies the data."""
    manifest = study.manifest or {}
    facts = [("study", study.params.study), ("data source", study.params.data.source)]
    if manifest:
        origin = manifest.get("source", {}).get("origin")
        facts += [("data origin", str(origin))] if origin else []
        facts += [
            ("images", ", ".join(f"{count:,} {name}" for name, count in manifest.get("splits", {}).items())),
            ("classes", f"{len(manifest.get('classes', ())):,}"),
            ("image size", f"{manifest.get('image_size')} pixels, {manifest.get('channels')} channels"),
            ("data fingerprint", str(manifest.get("fingerprint"))),
            ("corrupt images left out", f"{len(manifest.get('corrupt', ()))}"),
        ]
    return [*facts, ("use of the images", split_note(study))]
