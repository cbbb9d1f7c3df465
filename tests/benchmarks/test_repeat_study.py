"""A tracked curve is repeated by the same recipe to its last digit, and what differs is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import images, repeat_study
from benchmarks.keep_study import CURVE, recipe
from condensenet import AugmentConfig, CondenseNet, ModelConfig, TrainConfig, fit
from condensenet.data import PreparedData
from tasks.params import Setting
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
    repeat_study.check_comparable(row, SETTING, data)


def test_another_seed_is_a_difference_in_the_loss(row: dict[str, Any], data: PreparedData) -> None:
    other = replace(SETTING, train=replace(SETTING.train, seed=1))
    found = list(repeat_study.differences(row, repeat_study.curve(other, data, AUGMENT, epochs=1)))
    assert {"setting": "small", "epoch": 1, "figure": "train_loss"}.items() <= found[0].items()
    assert found[0]["tracked"] == row["curve"][0][2] != found[0]["repeated"]


def test_another_recipe_and_other_images_are_refused(row: dict[str, Any], data: PreparedData) -> None:
    with pytest.raises(ValueError, match=r"small: params.yaml has another recipe than the row of 2026-11-22"):
        repeat_study.check_comparable(row, replace(SETTING, train=replace(SETTING.train, epochs=3)), data)
    with pytest.raises(ValueError, match="small: other images were prepared"):
        repeat_study.check_comparable({**row, "data_fingerprint": "f"}, SETTING, data)


def test_rows_are_chosen_by_name(row: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    file.write_text(json.dumps([row]))
    assert repeat_study.chosen(file, None) == repeat_study.chosen(file, ["small"]) == [row]
    with pytest.raises(ValueError, match=r"--settings big is not allowed: .*study.json has small"):
        repeat_study.chosen(file, ["big"])
