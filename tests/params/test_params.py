"""``params.yaml`` is read strictly: a mistake comes back as one line with the key, the value and what is allowed."""

from __future__ import annotations

import copy
import os
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
    (
        ("data", "augment"),
        {"crop": "resized", "first_crop_size": 9},
        "data: first_crop_size=9 is not allowed: at most the 8 pixels that it grows to",
    ),
    (
        ("data", "augment"),
        {"crop": "resized", "crop_size": 8, "first_crop_size": 2},
        "settings.g1-c1: 3 blocks after the stem 'cifar' need images of at least 4 pixels, "
        "data.augment.first_crop_size=2: use fewer blocks or a larger augment.first_crop_size",
    ),
    (
        ("train", "sync_batch_norm"),
        True,
        "settings.g1-c1: train.sync_batch_norm=true is not allowed with ray.use_gpu=false: torch has it for GPUs",
    ),
    (
        ("train", "gpu_decoding"),
        True,
        "settings.g1-c1: train.gpu_decoding=true is not allowed with ray.use_gpu=false: only GPUs decode",
    ),
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
    (("study",), "no", "study='no' is not allowed: without quotes it would be a truth value"),
    (("study",), "Tables", "study='Tables' is not allowed: its outputs are not a study's"),
    (("study",), "x" * 300, "is not allowed: a letter, then letters, digits, - and _, at most 100 characters"),
    (("settings", "x" * 300), {}, "is not allowed: at most 100 characters, all printable"),
    (("settings", "010"), {}, "settings: name '010' is not allowed: a letter, then letters"),
    (("settings", "G4-C4"), {}, "settings: name 'G4-C4' beside 'g4-c4' is not allowed: they differ in case only"),
    (("settings", "g4-c4", "model"), {"groups_1x1": 2}, "unknown key settings.g4-c4.model: allowed are block_depths"),
    (("model", "groups_1x1"), "four", "model: groups_1x1='four' is not allowed: it must be a whole number"),
    (("model", "condensation_factor"), [4], "model: condensation_factor=[4] is not allowed: it must be a whole number"),
    (("model", "train"), {"epochs": 3}, "unknown key model.train: allowed are preset, block_depths"),
    (
        ("model", "block_depths"),
        [10_000_000, 2, 2],
        "block_depths=[10000000, 2, 2] is not allowed: every entry",
    ),
    (("model", "block_depths"), [900, 900, 2], "block_depths=[900, 900, 2] is not allowed: at most 1000 layers"),
    (("model", "growth_rates"), [10**9, 16, 32], "growth_rates=[1000000000, 16, 32] is not allowed: every entry must"),
    (("model", "growth_rates"), [30_000, 16, 32], "a layer would have 120096 channels, at most 65536 are allowed"),
    (("train", "epochs"), 10**30, "train: epochs=1000000000000000000000000000000 is not allowed: it must be in [1, 1"),
    (("train", "epochs"), 10**5000, "train.epochs=<an integer of 16610 bits> is not allowed: it is too large"),
    (("train", "weight_decay"), float("inf"), "train: weight_decay=inf is not allowed: it must be in [0, 1.0]"),
    (("train", "group_lasso_weight"), float("nan"), "train: group_lasso_weight=nan is not allowed: it must be in"),
    (("train", "batch_size"), 2**21, "train: batch_size=2097152 is not allowed: it must be in [1, 1048576]"),
    (("ray", "threads_per_worker"), 10**6, "ray.threads_per_worker=1000000 is not allowed: it must be less than or eq"),
    (("ray", "num_workers"), 10**9, "ray.num_workers=1000000000 is not allowed: it must be 1 or more, or two such"),
    (("ray", "storage"), "/tmp/a\0b", "ray.storage='/tmp/a\\x00b' is not allowed: at most 4096 characters, all printa"),
    (("ray", "storage"), " s3://bucket/x", "ray: storage=' s3://bucket/x' is not allowed: null, a folder, or s3://"),
    (("ray", "storage"), "x/s3://bucket", "ray: storage='x/s3://bucket' is not allowed: null, a folder, or s3://bucke"),
    (("ray", "storage"), "S3://bucket/x", "ray: storage='S3://bucket/x' is not allowed: null, a folder, or s3://bucke"),
    (("data", "channels"), True, "data.channels=True is not allowed: it must be a whole number"),
    (("data", "channels"), 1.0, "data.channels=1.0 is not allowed: it must be a whole number"),
    (("data", "path"), "/data", "data: path='/data' is not allowed with source='digits'"),
    (("data", "image_size"), 10**6, "data.image_size=1000000 is not allowed: it must be less than or equal to 4096"),
    (("data", "augment"), {"crop": "pad", "pad": 9}, "data: augment.pad=9 is not allowed: at most image_size=8"),
    (("benchmark", "runs"), 10**7, "benchmark.runs=10000000 is not allowed: it must be less than or equal to 100000"),
    (("benchmark", "threads"), [1, 10**6], "benchmark.threads.1=1000000 is not allowed: it must be less than or"),
    (("data", "image_size"), 3, "settings.g1-c1: 3 blocks after the stem 'cifar' need images of at least 4 pixels"),
    (("study",), {"data": {}}, "the first line of its file in conf/study must be '# @package _global_'"),
    (("settings", "g4-c4", "initial"), 3, "settings.g4-c4.initial=3 is not allowed"),
    (("surprise",), 1, "unknown key surprise: allowed are study"),
]


@pytest.mark.parametrize(("where", "value", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_value_is_named_in_one_line(raw: Raw, where: tuple[Any, ...], value: object, message: str) -> None:
    at = raw
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        params.parse(raw)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"source": "digits"},
            "data.source='digits', whose images are stored decoded: only with imagefolder, imagenet, ",
        ),
        ({"source": "cifar10"}, "data.source='cifar10', whose images are stored decoded: only with imagefolder, "),
        (
            {"source": "parquet", "path": "x", "raw": True, "shorter_side": 8},
            "data.raw=true: nothing is left to decode",
        ),
        ({"source": "parquet", "path": "x"}, None),
    ],
)
def test_only_image_files_are_decoded_on_a_gpu(raw: Raw, data: dict[str, Any], message: str | None) -> None:
    raw["ray"]["use_gpu"] = raw["train"]["gpu_decoding"] = True
    raw["data"].update(data, augment={"crop": "resized"})
    if message is None:
        assert params.parse(raw).data.source == "parquet"
        return
    with pytest.raises(ValueError, match=f"^settings.g1-c1: train.gpu_decoding=true is not allowed with {message}"):
        params.parse(raw)


def test_what_a_step_takes_is_estimated(raw: Raw) -> None:
    raw["data"]["image_size"], raw["train"]["batch_size"] = 1024, 4096
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole line is compared
        params.parse(raw)
    # 2,048 images of 2**20 pixels in each worker: 1 + 32 + 64 / 4 + 128 / 16 = 57 values of 4 bytes a pixel
    assert str(caught.value) == (
        "settings.g1-c1: train.batch_size=4096 is not allowed: a step would take at least 456 GiB in each of 2 "
        "workers, at most 256 are allowed"
    )


def test_a_misspelt_key_is_named_before_the_one_that_is_missing(raw: Raw) -> None:
    raw["data"]["sauce"] = raw["data"].pop("source")
    with pytest.raises(ValueError, match=r"unknown key data\.sauce: allowed are source, path"):
        params.parse(raw)
    del raw["data"]["sauce"]
    with pytest.raises(ValueError, match=r"data\.source is missing"):
        params.parse(raw)


def test_a_long_value_is_shortened(raw: Raw) -> None:
    raw["train"]["epochs"] = "9" * 4_000
    with pytest.raises(ValueError, match=r"train\.epochs='9{199}\.\.\. is not allowed: it must be a valid integer$"):
        params.parse(raw)


def test_a_missing_section_is_named(raw: Raw) -> None:
    del raw["ray"]
    with pytest.raises(ValueError, match="ray is missing"):
        params.parse(raw)


# 9**29 values by aliases of aliases
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("a: 2020-13-45", "it is not valid YAML: month must be in 1..12"),
        ("- 1", "the file must be a mapping"),
        ("", "the file must be a mapping"),
        ("a: " + "[" * 5000, "is nested too deeply"),
        ("a: &a [*a]", "it has more than 10000 values"),
        (BOMB, "it has more than 10000 values"),
        (MERGED, "it has more than 10000 values"),
        ("a: " + "9" * 5000, "it is not valid YAML: Exceeds the limit (4300 digits)"),
        ("train: {epochs: 0x" + "9" * 5000 + "}", "train.epochs=<an integer of 20000 bits> is not allowed"),
        ("a: !!timestamp x", "it is not valid YAML: failed to construct timestamp"),
        ("!!python/object/apply:os.system [ls]", "it is not valid YAML: could not determine a constructor"),
        ('a: "\\e[31m\\u202e"', r"a='\x1b[31m\u202e' is not allowed: at most 4096 characters, all printable"),
        ("a: " + "x" * 300_000, "params.yaml has 300003 bytes: at most 262144 are allowed"),
        ("a: ${oc.env:HOME}", "a='${oc.env:HOME}' is not allowed: ${...} is not replaced here"),
        ("a: \0", "it is not valid YAML: unacceptable character #x0000"),
    ],
    ids=range(16),
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


def test_a_pipe_in_place_of_the_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=r"params.yaml is not a regular file$"):
        params.load(tmp_path / "params.yaml")
