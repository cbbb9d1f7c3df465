"""A tracked curve is repeated by the same recipe to its last digit, and what differs is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import exported_study
import pytest
import torch
from ruamel.yaml import YAML

from benchmarks import images, repeat_study
from benchmarks.keep_study import CURVE, recipe
from condensenet import AugmentConfig, CondenseNet, ModelConfig, TrainConfig, fit
from condensenet.data import PreparedData
from tasks import params, paths
from tasks.params import Params, Setting
from tasks.train_worker import as_rows

SETTING = Setting(
    name="small",
    model=ModelConfig(block_depths=(1, 1), growth_rates=(4, 4), groups_1x1=2, groups_3x3=2, condensation_factor=2),
    train=TrainConfig(epochs=2, batch_size=8),
)
AUGMENT = AugmentConfig(crop="pad", pad=4, flip=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return images.patterns(tmp_path_factory.mktemp("patterns"), 32, 16)


@pytest.fixture(scope="module")
def row(data: PreparedData) -> dict[str, Any]:
    """Of a training to its end, as ``keep_study`` writes it to a file."""
    torch.manual_seed(SETTING.train.seed)
    history = as_rows(list(fit(CondenseNet(SETTING.model), data, AUGMENT, SETTING.train)))
    return {
        "study": "patterns",
        "setting": "small",
        "started_at": "2026-11-22",
        "data_fingerprint": data.manifest.fingerprint,
        **recipe(SETTING),
        "curve": [[float(epoch[name]) for name in CURVE] for epoch in history],
    }


def test_the_first_epoch_alone_equals_that_of_the_whole_training(row: dict[str, Any], data: PreparedData) -> None:
    first = repeat_study.curve(SETTING, data, AUGMENT, epochs=1)
    assert first == row["curve"][:1]
    assert list(repeat_study.differences(row, first)) == []
    repeat_study.check_recipe(row, SETTING)
    repeat_study.check_images(row, data)


def test_another_seed_is_a_difference_in_the_loss(row: dict[str, Any], data: PreparedData) -> None:
    other = replace(SETTING, train=replace(SETTING.train, seed=1))
    found = list(repeat_study.differences(row, repeat_study.curve(other, data, AUGMENT, epochs=1)))
    assert {"setting": "small", "epoch": 1, "figure": "train_loss"}.items() <= found[0].items()
    assert found[0]["tracked"] == row["curve"][0][2] != found[0]["repeated"]


def test_another_recipe_and_other_images_are_refused(row: dict[str, Any], data: PreparedData) -> None:
    with pytest.raises(ValueError, match=r"small: params.yaml has another recipe than the row of 2026-11-22"):
        repeat_study.check_recipe(row, replace(SETTING, train=replace(SETTING.train, epochs=3)))
    with pytest.raises(ValueError, match="small: other images were prepared"):
        repeat_study.check_images({**row, "data_fingerprint": "f"}, data)


def test_rows_are_chosen_by_name(row: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    file.write_text(json.dumps([row]))
    assert repeat_study.chosen(file, None, 2) == repeat_study.chosen(file, ["small"], 1) == [row]
    with pytest.raises(ValueError, match=r"--settings big is not allowed: .*study.json has small"):
        repeat_study.chosen(file, ["big"], 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curve": []}, "--epochs 1 is not allowed: the curve of small has 0"),
        ({"curve": [[1.0, 0.0, 2.0]]}, "the curve of small does not have 6 figures an epoch"),
    ],
)
def test_a_row_that_has_nothing_to_compare_is_refused(
    row: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "study.json"
    file.write_text(json.dumps([{**row, **change}]))
    with pytest.raises(ValueError, match=message):
        repeat_study.chosen(file, None, 1)


def test_more_epochs_than_the_row_has_are_refused(row: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    file.write_text(json.dumps([row]))
    with pytest.raises(ValueError, match="--epochs 3 is not allowed: the curve of small has 2"):
        repeat_study.chosen(file, None, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a list of rows"),
        ({}, "must be a list of rows"),
        ([1], "must be"),
        ([{}], "rows without study, sett"),
    ],
)
def test_a_file_without_rows_is_refused(content: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"--rows .*study.json is not allowed: .*{message}"):
        repeat_study.chosen(file, None, 1)


@pytest.mark.parametrize(("old", "new"), [(1.5, 1.50001), (1.5, 1.49999)])
def test_a_figure_that_rose_differs_as_one_that_fell(old: float, new: float) -> None:
    before, after = [1.0, 0.0, old, 60.0, 50.0, 100.0], [1.0, 0.0, new, 60.0, 50.0, 100.0]
    (found,) = repeat_study.differences({"setting": "small", "curve": [before, before]}, [after])
    assert found == {"setting": "small", "epoch": 1, "figure": "train_loss", "tracked": old, "repeated": new}


@pytest.fixture
def study(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A study with its images in the working folder, the rows of which are in rows.json."""
    monkeypatch.chdir(tmp_path)
    exported_study.write_study(checkout)
    raw = YAML(typ="safe").load(Path(paths.PARAMS))
    raw["train"].update(epochs=2, batch_size=3)
    raw["ray"].update(num_workers=1, threads_per_worker=2)
    YAML().dump(raw, Path(paths.PARAMS))
    loaded = params.load()
    (setting,) = loaded.settings.values()
    data = PreparedData(loaded.paths.data)
    torch.set_num_threads(2)
    kept = {
        "study": loaded.study,
        "setting": setting.name,
        "started_at": "2026-11-22",
        "data_fingerprint": data.manifest.fingerprint,
        **recipe(setting),
        "curve": repeat_study.curve(setting, data, loaded.data.augment, 2),
    }
    Path("rows.json").write_text(json.dumps([kept]))
    torch.set_num_threads(1)
    return loaded


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["repeat_study.py", "--rows", "rows.json", *arguments])
    repeat_study.main()


def change_row(**fields: object) -> None:
    (kept,) = json.loads(Path("rows.json").read_text())
    Path("rows.json").write_text(json.dumps([{**kept, **fields}]))


def test_the_command_repeats_a_study_with_its_threads(
    study: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch)
    assert "0 differences in 2 epochs" in capsys.readouterr().out
    assert torch.get_num_threads() == study.ray.threads_per_worker == 2


def test_a_difference_is_shown_and_ends_the_command_with_1(
    study: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = json.loads(Path("rows.json").read_text())[0]["curve"]
    change_row(curve=[first, [*second[:2], second[2] + 1, *second[3:]]])
    with pytest.raises(SystemExit) as end:
        start(monkeypatch)
    assert end.value.code == 1
    printed = capsys.readouterr().out
    assert "1 differences in 2 epochs" in printed
    assert "train_loss" in printed


def test_the_study_and_the_recipe_are_checked_before_the_images_and_these_before_training(
    study: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*_: object) -> None:
        raise AssertionError("it was trained")

    monkeypatch.setattr(repeat_study, "curve", no_training)
    change_row(data_fingerprint="f")
    with pytest.raises(ValueError, match="other images were prepared"):
        start(monkeypatch)
    shutil.rmtree(study.paths.data)
    change_row(train={"seed": 7})
    with pytest.raises(ValueError, match=r"params\.yaml has another recipe"):
        start(monkeypatch)
    change_row(study="other")
    with pytest.raises(ValueError, match=r"params\.yaml has the study tiny, the rows are of other"):
        start(monkeypatch)


def test_no_epoch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--epochs 0 is not allowed: 1 or more"):
        start(monkeypatch, "--epochs", "0")
