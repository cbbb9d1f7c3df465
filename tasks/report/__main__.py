"""Run as ``python -m tasks.report``: reads every stage's outputs, writes the report and completes the MLflow runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks import locks, outputs, paths, tracking
from tasks.console import say
from tasks.errors import run_main
from tasks.params import load
from tasks.report import drawing, markdown, page, tracked
from tasks.report.pictures import Picture, connection_maps, curves, scatters
from tasks.report.published import Published, read_published
from tasks.report.read import Study, read_study
from tasks.report.table import make_row


def main() -> None:
    params, published = load(), read_published()
    with locks.shared_machine():
        study = read_study(params)
        pictures = draw(study, published)
        write(study, published, pictures)
        complete_runs(study, pictures)
    say(f"report: {study.params.paths.report / paths.REPORT_HTML}")


def draw(study: Study, published: Published) -> dict[str, list[Picture]]:
    """The figures by section of the page."""
    return {"scatters": scatters(study, published), "curves": curves(study), "maps": connection_maps(study)}


def write(study: Study, published: Published, pictures: dict[str, list[Picture]]) -> None:
    """The outputs of the stage."""
    folder = study.params.paths.report
    texts = {
        paths.TABLE: outputs.as_csv([make_row(result) for result in study.results]),
        paths.REPORT_MD: markdown.render(study, published),
        paths.REPORT_HTML: page.render(study, published, pictures),
    }
    for name, text in texts.items():
        outputs.write_text(folder / name, text)
    tracked.write_curves(study.results, folder)
    tracked.write_metrics(study.results, folder)


def complete_runs(study: Study, pictures: dict[str, list[Picture]]) -> None:
    """Give every setting's MLflow run its final figures, the hashes of its files and the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        images = {}
        for picture in (picture for section in pictures.values() for picture in section):
            images[picture.key] = Path(folder) / f"{picture.key}.png"
            drawing.to_png(picture.figure, images[picture.key])
        report = study.params.paths.report / paths.REPORT_HTML
        for result in study.results:
            if result.run is None:
                continue
            shown = [p for section in pictures.values() for p in section if p.setting in ("", result.name)]
            artifacts = [(images[picture.key], "report/figures") for picture in shown]
            tracking.record(
                result.run,
                "report",
                metrics=tracking.final_metrics(study.params.study, result.name),
                tags=tracking.dvc_tags(result.name),
                artifacts=[(report, "report"), *artifacts],
                finished=not result.missing,
            )


if __name__ == "__main__":
    run_main(main)
