"""Released settings: their folders and model cards, from made-up outputs of a study."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from report_outputs import write_study

from tasks import params, paths
from tasks.errors import UserError
from tasks.outputs import write_csv, write_json
from tasks.release import CARD, release
from tasks.report.card import model_card
from tasks.report.results import Study, read_study


@pytest.fixture
def study(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    digits = params.load(checkout / "params.yaml")
    write_study(digits, ["g4-c2", "g4-c4"])
    for name in ("g4-c2", "g4-c4"):
        size = json.loads((digits.paths.setting("export", name) / paths.EXPORT).read_text())["file_bytes"]
        digits.paths.form(name, paths.LOWERED).write_bytes(name.encode().ljust(size))
    return read_study(digits)


def test_a_release_is_the_file_that_ships_and_a_card(study: Study, tmp_path: Path) -> None:
    (folder,) = release(study, ["g4-c4"], tmp_path / "release")
    assert folder.name == "digits-g4-c4"
    assert (folder / paths.ONNX).read_bytes() == b"g4-c4".ljust(200_000)
    card = (folder / CARD).read_text()
    assert "CondenseNet with G=4 groups and condensation factor C=4 for 10 classes" in card
    assert "| Test error, % | 2.78 (95% interval 1.52 to 5.04, 360 images) |" in card  # 10 of 360
    assert "| Multiply-adds | 500,000 |" in card
    counts = "1,257 train, 180 validation, 360 test images, 8x8 pixels"
    assert f"| Data | digits (example.images): {counts}; fingerprint f1f1f1f1f1f1 |" in card
    assert f"| Classes | {', '.join(f'class {label}' for label in range(10))} |" in card
    assert "| Trained | 2026-01-02, commit 0123456789ab |" in card
    assert "docs/board_predict.py" in card


def test_files_are_named_where_no_origin_is_and_many_classes_are_not_listed(study: Study) -> None:
    (result, _) = (result for result in study.results if result.evaluation)
    source = {"train": [{"file": f"train-{number}", "bytes": 1} for number in range(4)], "test": [{"file": "test"}]}
    files = replace(study, manifest={**(study.manifest or {}), "source": source})
    card = model_card(files, replace(result, per_class=3 * result.per_class))
    assert "| digits (train-0, train-1, train-2, train-3, …): 1,257 train" in card
    assert "Classes" not in card


def test_the_images_of_a_card_are_those_of_the_training(study: Study, tmp_path: Path) -> None:
    """A release is refused where others are prepared now; the registry's card has no word of these."""
    other = {**(study.manifest or {}), "fingerprint": "e2" * 32, "image_size": 99, "splits": {"train": 7}}
    prepared = replace(study, manifest=other)
    refused(
        prepared, tmp_path, "images of fingerprint e2e2e2e2e2e2 are prepared, it was trained on f1f1f1f1f1f1", ["g4-c4"]
    )
    refused(replace(study, manifest=None), tmp_path, "its images are not prepared", ["g4-c4"])
    (result, _) = (result for result in study.results if result.evaluation)
    counts = "1,257 train, 180 validation, 360 test images"
    assert f"| Data | digits: {counts}; fingerprint f1f1f1f1f1f1 |" in model_card(prepared, result)


def refused(study: Study, root: Path, message: str, names: Sequence[str] = ("g4-c2", "g4-c4")) -> None:
    """Not even g4-c2, which is whole, is released."""
    with pytest.raises(
        UserError, match=rf"^g4-c4 cannot be released: {re.escape(message)}.* \(dvc repro evaluate@g4-c4\)$"
    ):
        list(release(study, names, root / "release"))
    assert not (root / "release").exists()


@pytest.mark.parametrize("absent", [{"params"}, {"dataset"}, {"params", "dataset"}])
def test_a_training_of_which_nothing_is_known_is_not_released(study: Study, tmp_path: Path, absent: set[str]) -> None:
    file = study.params.paths.setting("train", "g4-c4") / paths.RUN
    run = json.loads(file.read_text())
    write_json(file, {key: {} if key in absent else value for key, value in run.items()})
    refused(read_study(study.params), tmp_path, f"{file} does not say with what it was trained")
    file.unlink()
    refused(read_study(study.params), tmp_path, f"{file} does not say with what it was trained")


def test_another_recipe_than_the_trained_one_is_not_released(study: Study, tmp_path: Path) -> None:
    file = study.params.paths.setting("train", "g4-c4") / paths.RUN
    run = json.loads(file.read_text())
    write_json(file, {**run, "params": {**run["params"], "train.seed": "7"}})
    refused(read_study(study.params), tmp_path, "train.seed in params.yaml is not what was trained")


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (0, 2.0, "it was evaluated on 0 images"),
        (None, 2.0, "it was evaluated on None images"),
        (360, math.nan, "its test_error_pct is nan, not from 0 to 100"),
        (360, 120.0, "its test_error_pct is 120.0, not from 0 to 100"),
        (360, "none", "its test error is not a number"),
    ],
)
def test_an_error_that_cannot_be_is_not_released(
    study: Study, tmp_path: Path, images: int | None, error: object, message: str
) -> None:
    file = study.params.paths.setting("evaluate", "g4-c4") / paths.METRICS
    errors = {"top1_error_pct": error}
    file.write_text(json.dumps({"images": images, "pytorch": errors, "onnxruntime": errors}))
    refused(read_study(study.params), tmp_path, message)


def test_a_calibration_error_that_is_no_number_is_not_released(study: Study, tmp_path: Path) -> None:
    file = study.params.paths.setting("evaluate", "g4-c4") / paths.METRICS
    errors = {"top1_error_pct": 2.0, "calibration_error_pct": math.nan}
    file.write_text(json.dumps({"images": 360, "onnxruntime": errors}))
    refused(read_study(study.params), tmp_path, "its test_calibration_error_pct is nan")


def test_a_file_that_is_not_the_exported_one_is_not_released(study: Study, tmp_path: Path) -> None:
    file = study.params.paths.form("g4-c4", paths.LOWERED)
    file.write_bytes(b"")
    refused(study, tmp_path, f"{file} has 0 bytes, the exported one had 200,000")
    file.unlink()
    refused(study, tmp_path, f"{file} is missing")


def test_a_network_whose_multiply_adds_were_not_counted_is_not_released(study: Study, tmp_path: Path) -> None:
    write_json(study.params.paths.setting("convert", "g4-c4") / paths.COST, {"grouped": {"params": 1}})
    refused(read_study(study.params), tmp_path, "macs was not counted")


def test_the_card_names_the_classes_with_the_largest_errors(study: Study) -> None:
    (result, _) = (result for result in study.results if result.evaluation)
    assert "The largest errors by class: class 2 5.56%, class 5 5.56%, class 8 5.56%." in model_card(study, result)
    evil = [{**row, "class": "<b>|", "onnxruntime_error_pct": "99"} for row in result.per_class]
    assert "\\<b\\>\\| 99.00%" in model_card(study, replace(result, per_class=evil))
    assert "by class" not in model_card(study, replace(result, per_class=result.per_class[:3]))


def test_a_class_without_test_images_has_no_error(study: Study) -> None:
    (result, _) = (result for result in study.results if result.evaluation)
    path = study.params.paths.setting("evaluate", result.name) / paths.PER_CLASS
    empty = {**result.per_class[0], "class": "never seen", "images": 0, "onnxruntime_error_pct": None}
    write_csv(path, [*result.per_class[1:], empty])
    (again, _) = (result for result in read_study(study.params).results if result.evaluation)
    assert "never seen" not in model_card(study, again).split("The largest errors by class: ")[1]


def test_nothing_is_released_if_a_setting_is_unknown_or_not_complete(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="g9 is not a setting of digits: it must be one of g1-c1, "):
        list(release(study, ["g4-c4", "g9"], tmp_path / "release"))
    with pytest.raises(UserError, match=r"g1-c1 cannot be released: train, .*evaluate was not run \(dvc repro"):
        list(release(study, [], tmp_path / "release"))
    assert not (tmp_path / "release").exists()
