"""Release trained settings: for each a folder with its ONNX file, as it ships, and a model card.

python -m tasks.release g4-c1 g4-c4                    # into release/<study>-<setting>/
python -m tasks.release --folder DIR                   # all settings of the study, into DIR

A setting must have been trained, exported and evaluated. The card holds no figure that was not measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from condensenet.files import write_atomically
from tasks import params, paths
from tasks.console import say
from tasks.errors import UserError, run_main
from tasks.report.card import model_card
from tasks.report.results import SettingResult, Study, read_study
from tasks.tracking.desired import run_params

FOLDER = Path("release")
CARD = "README.md"
NEEDED = ("train", "convert", "export", "evaluate")
PARTS = ("G", "C", "model.", "train.")


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
    for result in checked(study, names):
        folder = root / f"{study.params.study}-{result.name}"
        folder.mkdir(parents=True, exist_ok=True)
        content = study.params.paths.form(result.name, paths.LOWERED).read_bytes()
        write_atomically(folder / paths.ONNX, content)
        write_atomically(folder / CARD, model_card(study, result).encode())
        yield folder


def checked(study: Study, names: Sequence[str]) -> list[SettingResult]:
    """The results of these settings, all of them complete."""
    results = {result.name: result for result in study.results}
    for name in names:
        if name not in results:
            raise UserError(f"{name} is not a setting of {study.params.study}: it must be one of {', '.join(results)}")
    chosen = [results[name] for name in names or results]
    for result in chosen:
        if missing := [stage for stage in result.missing if stage in NEEDED]:
            command = f"dvc repro evaluate@{result.name}"
            raise UserError(f"{result.name} cannot be released: {', '.join(missing)} was not run ({command})")
        if changed := _changed(study, result):
            raise UserError(
                f"{result.name} cannot be released: {', '.join(changed)} in params.yaml is not what was trained "
                f"(dvc repro evaluate@{result.name})"
            )
    return chosen


def _changed(study: Study, result: SettingResult) -> list[str]:
    """Parameters of the network and the recipe that a card would name, and that were others in the training."""
    trained = (result.run or {}).get("params") or {}
    now = run_params(study.params, result.setting)
    return [key for key, value in trained.items() if key.startswith(PARTS) and now.get(key, value) != value]


if __name__ == "__main__":
    run_main(main)
