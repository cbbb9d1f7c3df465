"""``python -m tasks.report``: reads every stage's outputs, writes the report and completes the MLflow runs."""

from __future__ import annotations

from pathlib import Path

from condensenet.files import sha256
from condensenet.temporary import temporary_folder
from tasks import locks, outputs, paths, tracking
from tasks.arguments import no_arguments
from tasks.console import say
from tasks.errors import run_main
from tasks.params import load
from tasks.report import markdown, page, summary
from tasks.report.card import model_card
from tasks.report.figures import saving
from tasks.report.figures.connection_maps import connection_figures
from tasks.report.figures.curves import curve_figures
from tasks.report.figures.saving import ReportFigure
from tasks.report.figures.scatter import error_figures
from tasks.report.published import NOTHING, Published, read_published
from tasks.report.results import SettingResult, Study, read_study

Figures = dict[str, list[ReportFigure]]


def main() -> None:
    no_arguments()
    params = load()
    published = read_published() if paths.PUBLISHED.parent.is_dir() else NOTHING  # `condensenet train` makes no conf
    with locks.shared_machine():
        study = read_study(params)
        figures = draw(study, published)
        write(study, published, figures)
        complete_runs(study, figures)
    say(f"report: {study.params.paths.report / paths.REPORT_HTML}")


def draw(study: Study, published: Published) -> Figures:
    """The figures by section of the page."""
    return {
        "errors": error_figures(study, published),
        "curves": curve_figures(study),
        "connections": connection_figures(study),
    }


def write(study: Study, published: Published, figures: Figures) -> None:
    """Write the outputs of the stage."""
    folder = study.params.paths.report
    summary.write_table(study.results, folder)
    summary.write_curves(study.results, folder)
    summary.write_metrics(study.results, folder)
    outputs.write_text(folder / paths.REPORT_MD, markdown.render(study, published))
    outputs.write_text(folder / paths.REPORT_HTML, page.render(study, published, figures))


def complete_runs(study: Study, figures: Figures) -> None:
    """Give every setting's MLflow run its headline figures, the hashes of its files and its images."""
    with temporary_folder("condensenet-report-") as folder:
        images = {}
        for figure in (figure for section in figures.values() for figure in section):
            images[figure.key] = folder / f"{figure.key}.png"
            saving.to_png(figure.figure, images[figure.key])
        report = study.params.paths.report / paths.REPORT_HTML
        for result in study.results:
            if result.run is None:
                continue
            shown = [f for section in figures.values() for f in section if f.setting in ("", result.name)]
            artifacts = [(images[figure.key], "report/figures") for figure in shown]
            hashes = folder / result.name / "dvc.json"
            outputs.write_json(hashes, tracking.dvc_hashes(result.name))
            tracking.record(
                result.run,
                "report",
                metrics=result.metrics,
                artifacts=[(report, "report"), (hashes, "report"), *artifacts],
                finished=not result.missing,
            )
        record_study(study, [images[figure.key] for figure in figures["errors"]])


def record_study(study: Study, charts: list[Path]) -> None:
    """Give the study's run the table and the charts, and the registry the settings that are complete."""
    complete = {result.run["execution_id"]: result for result in study.results if result.run and not result.missing}
    folder = study.params.paths.report
    tracking.record_study(
        study.params.study,
        [folder / paths.TABLE, folder / paths.REPORT_HTML, *charts],
        {execution: _exported(study, result) for execution, result in complete.items()},
        {execution: result.metrics for execution, result in complete.items()},
    )


def _exported(study: Study, result: SettingResult) -> dict[str, str]:
    file = study.params.paths.form(result.name, paths.LOWERED)
    return {"sha256": sha256(file), "card": model_card(study, result)}


if __name__ == "__main__":
    run_main(main)
