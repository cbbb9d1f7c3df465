"""Released settings: their folders and model cards, from made-up outputs of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_outputs import write_study

from tasks import params, paths
from tasks.errors import UserError
from tasks.outputs import write_csv
from tasks.release import CARD, release
from tasks.report.card import model_card
from tasks.report.results import Study, read_study


@pytest.fixture
def study(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    digits = params.load(checkout / "params.yaml")
    write_study(digits, ["g4-c2", "g4-c4"])
    for name in ("g4-c2", "g4-c4"):
        digits.paths.form(name, paths.LOWERED).write_bytes(name.encode())
    return read_study(digits)


def test_a_release_is_the_file_that_ships_and_a_card(study: Study, tmp_path: Path) -> None:
    (folder,) = release(study, ["g4-c4"], tmp_path / "release")
    assert folder.name == "digits-g4-c4"
    assert (folder / paths.ONNX).read_bytes() == b"g4-c4"
    card = (folder / CARD).read_text()
    assert "CondenseNet with G=4 groups and condensation factor C=4 for 10 classes" in card
    assert "| Test error, % | 2.78 (95% interval 1.52 to 5.04, 360 images) |" in card  # 10 of 360
    assert "| Multiply-adds | 500,000 |" in card
    assert "fingerprint f1f1f1f1f1f1" in card
    assert "commit 0123456789ab" in card


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
    assert "never seen" not in model_card(study, again)


def test_nothing_is_released_if_a_setting_is_unknown_or_not_complete(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="g9 is not a setting of digits: it must be one of g1-c1, "):
        list(release(study, ["g4-c4", "g9"], tmp_path / "release"))
    with pytest.raises(UserError, match=r"g1-c1 cannot be released: train, .*evaluate was not run \(dvc repro"):
        list(release(study, [], tmp_path / "release"))
    assert not (tmp_path / "release").exists()
