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


def composed(study: str, folder: Path) -> dict[str, Any]:
    from dvc.utils.hydra import compose_and_dump

    target = folder / "params.yaml"
    compose_and_dump(target, str(CHECKOUT / "conf"), None, "config", str(CHECKOUT), [f"study={study}"])
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
    raw = read(CHECKOUT / "conf/study" / f"{name}.yaml")
    for key, setting in params.settings.items():
        said = {**raw["model"], **(raw["settings"][key] or {})}
        if "preset" not in said:
            continue
        for field in dataclasses.fields(setting.model):
            if field.name not in said:
                assert getattr(setting.model, field.name) == getattr(presets[said["preset"]], field.name), field.name


def test_the_header_says_how_to_run_and_what_to_expect(study: tuple[str, Params]) -> None:
    text = (CHECKOUT / "conf/study" / f"{study[0]}.yaml").read_text()
    header = text[: text.index("\nstudy:")]
    assert text.startswith("# @package _global_\n")
    for word in ("Command:", "Expected"):
        assert word in header


def test_the_papers_studies_are_there() -> None:
    assert {"digits", "cifar10", "cifar100", "imagenet"} <= set(STUDIES)


def test_params_yaml_in_git_is_the_composed_digits_study(tmp_path: Path) -> None:
    assert read(CHECKOUT / "params.yaml") == composed("digits", tmp_path)


def test_prepare_follows_every_key_that_shapes_the_data_and_no_other() -> None:
    prepare = read(CHECKOUT / "dvc.yaml")["stages"]["prepare"]
    keys = {f"data.{field.name}" for field in dataclasses.fields(DataParams)} - {"data.augment"}
    assert set(prepare["params"]) == keys | {"study", "model.num_classes"}
    assert set(read(CHECKOUT / "conf/base.yaml")["data"]) == {f.name for f in dataclasses.fields(DataParams)}
