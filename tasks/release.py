"""Release trained settings: for each a folder with its ONNX file, as it ships, and a model card.

python -m tasks.release g4-c1 g4-c4                    # into release/<study>-<setting>/
python -m tasks.release --folder DIR                   # all settings of the study, into DIR

A setting must have been trained, exported and evaluated. The card holds no figure that was not measured.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from condensenet.files import write_atomically
from tasks import params, paths
from tasks.console import say
from tasks.errors import UserError, run_main
from tasks.report.card import model_card
from tasks.report.origin import other_training
from tasks.report.results import SettingResult, Study, read_study

FOLDER = Path("release")
CARD = "README.md"
NEEDED = ("train", "convert", "export", "evaluate")
PERCENTAGES = ("test_error_pct", "test_top5_error_pct", "test_calibration_error_pct")


def main() -> None:
    options = arguments()
    loaded = params.load()
    for folder in release(read_study(loaded), options.settings, options.folder):
        say(f"{folder}: {paths.ONNX} and {CARD}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="of the study in params.yaml; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the folders are made; default: %(default)s")
    return parser.parse_args()


def release(study: Study, names: Sequence[str], root: Path) -> Iterator[Path]:
    """Write and yield the folders of the settings ``names`` (none: all); raises ``UserError`` before the first."""
    for result, content in checked(study, names):
        folder = root / f"{study.params.study}-{result.name}"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / paths.ONNX, content)
        write_atomically(folder / CARD, model_card(study, result).encode())
        yield folder


def checked(study: Study, names: Sequence[str]) -> list[tuple[SettingResult, bytes]]:
    """The results and the ONNX files of these settings, all of them complete."""
    results = {result.name: result for result in study.results}
    for name in names:
        if name not in results:
            raise UserError(f"{name} is not a setting of {study.params.study}: it must be one of {', '.join(results)}")
    chosen = [results[name] for name in names or results]
    files = []
    for result in chosen:
        if why := next(_objections(study, result), None):
            command = f"dvc repro evaluate@{result.name}"
            raise UserError(f"{result.name} cannot be released: {why} ({command})")
        files.append(study.params.paths.form(result.name, paths.LOWERED).read_bytes())
    return list(zip(chosen, files, strict=True))


def _objections(study: Study, result: SettingResult) -> Iterator[str]:
    """What stands against a release, the first cause first: later ones rely on earlier ones."""
    if missing := [stage for stage in result.missing if stage in NEEDED]:
        yield f"{', '.join(missing)} was not run"
    yield from other_training(study, result)
    yield from _no_figures(result)
    yield from _other_file(study, result)


def _no_figures(result: SettingResult) -> Iterator[str]:
    """Figures that the card would name, and that cannot be."""
    images, error = (result.evaluation or {}).get("images"), result.metrics.get(PERCENTAGES[0])
    if type(images) is not int or images < 1:
        yield f"it was evaluated on {images} images"
    if error is None:
        yield "its test error is not a number"
    for name in PERCENTAGES:
        if not 0 <= result.metrics.get(name, 0) <= 100:
            yield f"its {name} is {result.metrics[name]}, not from 0 to 100"
    for name in ("macs", "params", "file_bytes"):
        if not 0 < result.metrics.get(name, 0) < math.inf:
            yield f"{name} was not counted"


def _other_file(study: Study, result: SettingResult) -> Iterator[str]:
    """An ONNX file that is missing, or not the one that was exported."""
    file = study.params.paths.form(result.name, paths.LOWERED)
    found, exported = file.stat().st_size if file.is_file() else None, int(result.metrics["file_bytes"])
    if found is None:
        yield f"{file} is missing"
    elif found != exported:
        yield f"{file} has {found:,} bytes, the exported one had {exported:,}"


if __name__ == "__main__":
    run_main(main)
