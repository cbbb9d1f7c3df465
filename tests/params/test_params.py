"""``params.yaml`` is read strictly: a mistake comes back as one line with the key, the value and what is allowed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from condensenet.models.presets import presets
from tasks import params
from tasks.errors import UserError

Raw = dict[str, Any]


@pytest.fixture
def raw(checkout: Path) -> Raw:
    from ruamel.yaml import YAML

    return copy.deepcopy(YAML(typ="safe", pure=True).load(checkout / "params.yaml"))


def test_the_tracked_file_is_the_digits_study(checkout: Path) -> None:
    loaded = params.load(checkout / "params.yaml")
    assert loaded.study == "digits"
    assert len(loaded.settings) >= 4
    assert any(s.model.groups_1x1 != s.model.condensation_factor for s in loaded.settings.values())


def test_a_setting_overrides_the_model_and_the_recipe(raw: Raw) -> None:
    raw["settings"]["g4-c4"].update(bottleneck=2, train={"epochs": 7})
    setting = params.parse(raw).setting("g4-c4")
    assert (setting.model.bottleneck, setting.train.epochs) == (2, 7)
    assert params.parse(raw).setting("g2-c2").train.epochs == raw["train"]["epochs"]


def test_a_preset_is_the_base_and_the_setting_wins(raw: Raw) -> None:
    raw["model"] = {}
    raw["settings"] = {"a": {"preset": "condensenet-86", "condensation_factor": 2}}
    model = params.parse(raw).setting("a").model
    assert model.block_depths == presets["condensenet-86"].block_depths
    assert model.condensation_factor == 2


BAD = [
    (("train", "epochs"), "ten", "train.epochs='ten' is not allowed"),
    (("train", "epochs"), 2.5, "train.epochs=2.5 is not allowed"),
    (("train", "epochs"), True, "train.epochs=True is not allowed"),
    (("train", "epochs"), 0, "train: epochs=0 is not allowed"),
    (("train", "learning_rate"), float("inf"), "train: learning_rate=inf is not allowed: it must be above 0"),
    (("train", "epoch"), 3, "unknown key train.epoch: allowed are epochs"),
    (("train", "precision"), "fp8", "train.precision='fp8' is not allowed"),
    (("data", "source"), "mnist", "data.source='mnist' is not allowed"),
    (("data", "augment"), {"crop": "pad", "pad": 0}, "data.augment: pad=0 does not go with crop='pad'"),
    (("model", "block_depths"), [2, 2], "settings.g1-c1: block_depths=[2, 2] and growth_rates"),
    (("settings", "g4-c4", "groups_1x1"), 3, "settings.g4-c4: groups_1x1=3 does not divide the 16 input channels"),
    (("settings", "g4-c4", "condensation_factor"), 5, "settings.g4-c4: condensation_factor=5 does not divide"),
    (("settings", "g4-c4", "group"), 4, "unknown key settings.g4-c4.group: allowed are"),
    (("settings", "g4-c4", "preset"), "vgg", "settings.g4-c4: preset='vgg' is not allowed: condensenet-50"),
    (("settings", "g4-c4", "preset"), ["vgg"], "settings.g4-c4: preset=['vgg'] is not allowed: condensenet-50"),
    (("train", "seed"), 10**30, "train: seed=1000000000000000000000000000000 is not allowed"),
    (("settings", "../x"), {}, "settings: name '../x' is not allowed"),
    (("settings",), {}, "settings={} is not allowed"),
    (("settings",), None, "settings must be a mapping"),
    (("train", "batch_size"), 63, "settings.g1-c1: train.batch_size=63 is not allowed: it must be divisible by ray"),
    (("settings", "g4-c4", "train"), {"batch_size": 3}, "settings.g4-c4: train.batch_size=3 is not allowed"),
    (("ray", "num_workers"), 0, "ray.num_workers=0 is not allowed: it must be 1 or more, or two such numbers"),
    (("ray", "num_workers"), [4, 2], "ray.num_workers=[4, 2] is not allowed: it must be 1 or more, or two such"),
    (("ray", "num_workers"), [2], "ray.num_workers=[2] is not allowed: it must be 1 or more, or two such numbers"),
    (("ray", "num_workers"), True, "ray.num_workers=True is not allowed: it must be 1 or more, or two such numbers"),
    (("ray", "storage"), "gs://b", "ray: storage='gs://b' is not allowed: null, a folder, or s3://bucket/prefix"),
    (("export", "plan"), "fast", "export: plan='fast' is not allowed: portable, measured, or the path of a plan file"),
    (("export", "plan"), 1, "export.plan=1 is not allowed"),
    (("export", "opset"), 26, "export: opset=26 is not allowed: 18 to 25"),
    (("benchmark", "runs"), 3, "benchmark.runs=3 is not allowed: it must be greater than or equal to 50"),
    (("benchmark", "threads"), [], "benchmark.threads=[] is not allowed: it must not be empty"),
    (("benchmark", "threads"), [1, -1], "benchmark.threads.1=-1 is not allowed: it must be greater than or equal to 0"),
    (("data", "augment"), {"krop": "pad"}, "unknown key data.augment.krop: allowed are crop, pad, flip"),
    (("data", "channels"), 2, "data.channels=2 is not allowed: it must be 1 or 3"),
    (
        ("settings", "g4-c4", "stem"),
        "wide",
        "settings.g4-c4.stem='wide' is not allowed: it must be 'cifar', 'imagenet'",
    ),
    (("settings", "g4-c4", "train"), 3, "settings.g4-c4.train must be a mapping"),
    (("settings", "g4-c4"), None, "settings.g4-c4 must be a mapping"),
    (("settings", 1), {}, "key 1 is not allowed: it must be a string"),
    (("study",), "a/b", "study='a/b' is not allowed"),
    (("data", "image_size"), 3, "settings.g1-c1: 3 blocks after the stem 'cifar' need images of at least 4 pixels"),
    (("study",), {"data": {}}, "the first line of its file in conf/study must be '# @package _global_'"),
    (("settings", "g4-c4", "initial"), 3, "settings.g4-c4.initial=3 is not allowed"),
    (("surprise",), 1, "unknown key surprise: allowed are study"),
]


@pytest.mark.parametrize(("where", "value", "message"), BAD, ids=[".".join(map(str, b[0])) + f"={b[1]}" for b in BAD])
def test_a_bad_value_is_named_in_one_line(raw: Raw, where: tuple[Any, ...], value: object, message: str) -> None:
    at = raw
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        params.parse(raw)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_key_is_named_before_the_one_that_is_missing(raw: Raw) -> None:
    raw["data"]["sauce"] = raw["data"].pop("source")
    with pytest.raises(ValueError, match=r"unknown key data\.sauce: allowed are source, path"):
        params.parse(raw)
    del raw["data"]["sauce"]
    with pytest.raises(ValueError, match=r"data\.source is missing"):
        params.parse(raw)


def test_a_long_value_is_shortened(raw: Raw) -> None:
    raw["train"]["epochs"] = "9" * 10_000
    with pytest.raises(ValueError, match=r"train\.epochs='9{199}\.\.\. is not allowed: it must be a valid integer$"):
        params.parse(raw)


def test_a_missing_section_is_named(raw: Raw) -> None:
    del raw["ray"]
    with pytest.raises(ValueError, match="ray is missing"):
        params.parse(raw)


# 9**29 values by aliases of aliases
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("a: 2020-13-45", "is not valid YAML: month must be in 1..12"),
        ("- 1", "the file must be a mapping"),
        ("", "the file must be a mapping"),
        ("a: " + "[" * 5000, "is nested too deeply"),
        ("a: &a [*a]", "it has more than 10000 values"),
        (BOMB, "it has more than 10000 values"),
    ],
    ids=["syntax", "date", "list", "empty", "nested", "recursive", "bomb"],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        params.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        params.load(tmp_path / "params.yaml")


def test_a_folder_in_its_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        params.load(tmp_path)


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path, raw: Raw) -> None:
    from ruamel.yaml import YAML

    path = tmp_path / "params.yaml"
    raw["train"]["learning_rate"] = "RATE"
    YAML().dump(raw, path)
    path.write_text(path.read_text().replace("RATE", "1e-1"))
    assert params.load(path).setting("g1-c1").train.learning_rate == 0.1
