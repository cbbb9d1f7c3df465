"""Run as ``python -m tasks.report``: reads every stage's outputs, writes the report and completes the MLflow runs."""

from __future__ import annotations

from tasks import paths
from tasks.console import say
from tasks.errors import run_main
from tasks.params import load
from tasks.report.read import read_study
from tasks.report.table import format_table, make_row, to_csv


def main() -> None:
    params = load()
    study = read_study(params)
    rows = [make_row(result) for result in study.results]
    folder = params.paths.report
    folder.mkdir(parents=True, exist_ok=True)
    (folder / paths.TABLE).write_text(to_csv(rows), encoding="utf-8")
    plain = format_table(rows)
    (folder / paths.REPORT_MD).write_text(f"# CondenseNet, study {params.study}\n\n```\n{plain}\n```\n", "utf-8")
    (folder / paths.REPORT_HTML).write_text(f"<!doctype html><title>Report</title><pre>{plain}</pre>\n", "utf-8")
    say(f"report: {folder / paths.REPORT_HTML}")


if __name__ == "__main__":
    run_main(main)
