"""Every study in conf/ composes with DVC's Hydra into parameters that pass the checks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from condensenet.models.presets import presets
from tasks.params import DataParams, Params, parse

CHECKOUT = Path(__file__).resolve().parents[2]
STUDIES = sorted(path.stem for path in (CHECKOUT / "conf/study").glob("*.yaml"))


def composed(study: str, folder: Path, *overrides: str) -> dict[str, Any]:
    from dvc.utils.hydra import compose_and_dump

    target = folder / "params.yaml"
    compose_and_dump(target, str(CHECKOUT / "conf"), None, "config", str(CHECKOUT), [f"study={study}", *overrides])
    return read(target)


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Params]:
    return request.param, parse(composed(request.param, tmp_path))


def test_a_study_is_named_like_its_file_and_fits_its_data(study: tuple[str, Params]) -> None:
    name, params = study
    assert params.study == name
    for setting in params.settings.values():
        assert setting.model.in_channels == params.data.channels


def test_a_preset_keeps_what_the_study_does_not_override(study: tuple[str, Params], tmp_path: Path) -> None:
    name, params = study
    raw = composed(name, tmp_path)
    for key, setting in params.settings.items():
        overrides = {**raw["model"], **(raw["settings"][key] or {})}
        if "preset" not in overrides:
            continue
        for field in dataclasses.fields(setting.model):
            if field.name not in overrides:
                assert getattr(setting.model, field.name) == getattr(presets[overrides["preset"]], field.name), (
                    field.name
                )


def test_the_header_has_the_command_the_hardware_and_the_expected_error(study: tuple[str, Params]) -> None:
    text = (CHECKOUT / "conf/study" / f"{study[0]}.yaml").read_text()
    header = text[: text.index("\nstudy:")]
    assert text.startswith("# @package _global_\n")
    for word in ("Command:", "Hardware:", "Time:", "Expected"):
        assert word in header


def test_the_papers_studies_are_there() -> None:
    assert {"digits", "cifar10", "cifar100", "imagenet"} <= set(STUDIES)


def test_arithmetic_is_that_of_the_paper_unless_the_fast_recipe_is_selected(
    study: tuple[str, Params], tmp_path: Path
) -> None:
    name, params = study
    precisions = {setting.train.precision for setting in params.settings.values()}
    assert precisions == ({"bf16"} if name.endswith("-fast") else {"fp32"})
    if name.endswith("-modern"):
        return  # its recipe is more than an arithmetic
    for recipe, precision in (("fast", "bf16"), ("paper", "fp32")):
        selected = composed(name, tmp_path, f"recipe={recipe}")
        assert selected["train"].pop("precision") == precision
        default = composed(name, tmp_path)
        del default["train"]["precision"]
        assert selected == default  # and nothing else changes


@pytest.mark.parametrize("name", ["cifar10", "cifar10-jpeg"])
def test_a_fast_study_is_its_study_but_for_name_and_recipe(name: str, tmp_path: Path) -> None:
    fast, default = composed(f"{name}-fast", tmp_path), composed(name, tmp_path, "recipe=fast")
    assert fast.pop("study") == f"{default.pop('study')}-fast"
    assert fast == default


def test_the_rows_of_c_at_g_4_are_one_network_but_for_c(tmp_path: Path) -> None:
    settings = parse(composed("cifar10-jpeg", tmp_path)).settings
    for c, suffix in ((1, "-c1"), (2, "-c2"), (4, ""), (8, "-c8")):
        expected = dataclasses.replace(presets["condensenet-86"], condensation_factor=c)
        assert settings[f"condensenet-86{suffix}"].model == expected
        assert expected.groups_1x1 == 4


def test_params_yaml_in_git_is_the_composed_digits_study(tmp_path: Path) -> None:
    assert read(CHECKOUT / "params.yaml") == composed("digits", tmp_path)


def test_prepare_follows_every_key_that_shapes_the_data_and_no_other() -> None:
    prepare = read(CHECKOUT / "dvc.yaml")["stages"]["prepare"]
    keys = {f"data.{field.name}" for field in dataclasses.fields(DataParams)} - {"data.augment"}
    assert set(prepare["params"]) == keys | {"study", "model.num_classes"}
    assert set(read(CHECKOUT / "conf/base.yaml")["data"]) == {f.name for f in dataclasses.fields(DataParams)}


def test_the_modern_study_differs_from_the_papers_by_its_recipe_augmentation_and_batch_alone(tmp_path: Path) -> None:
    modern, paper = (parse(composed(name, tmp_path)) for name in ("imagenet-modern", "imagenet"))
    recipe = read(CHECKOUT / "conf/recipe/modern.yaml")["train"]
    for name, setting in paper.settings.items():
        expected = dataclasses.replace(setting.train, **recipe, batch_size=1024)
        assert modern.settings[name] == dataclasses.replace(setting, train=expected)
    augment = {"crop_size": 192, "first_crop_size": 128, "randaugment": 2, "randaugment_magnitude": 9}
    data = dataclasses.replace(paper.data, augment=dataclasses.replace(paper.data.augment, **augment))
    assert modern.data == data
    assert dataclasses.replace(modern, study="imagenet", settings=paper.settings, data=paper.data) == paper
    off = paper.data.augment
    assert (off.crop_size, off.first_crop_size, off.randaugment) == (None, None, 0)
    assert not any(setting.train.sync_batch_norm for setting in (*paper.settings.values(), *modern.settings.values()))
