"""Reads ``params.yaml`` and the like. Every setting is checked, not only the one that a stage is about to run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from condensenet.config.checks import require
from condensenet.models.presets import presets
from condensenet.text import shown
from tasks import paths, plain_yaml
from tasks.errors import UserError
from tasks.params.checks import check_shared_model, check_together
from tasks.params.names import check_names
from tasks.params.study import Params, Sections, Setting, StudyFile
from tasks.params.typed import checked
from tasks.plain_yaml import check_plain

OWN_KEYS: dict[str, Any] = {"train": {}, "preset": None, "initial": None}  # of a setting, beside those of the model


def load(path: Path = paths.PARAMS) -> Params:
    """Read and check ``params.yaml``.

    Raises ``UserError``, whose one line names the key, its value and what is allowed.
    """
    raw = read(path)
    try:
        return parse(raw)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read(path: Path) -> Any:
    """The plain data in ``path``, of limited size and depth, not yet checked. Raises ``UserError``."""
    try:
        return plain_yaml.load(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the folder that holds it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(str(error)) from None


def parse(raw: Any) -> Params:
    """The parameters in the content of a YAML file; raises ``ValueError`` with a one-line message."""
    check_plain(raw)
    require(
        not (isinstance(raw, dict) and isinstance(raw.get("study"), dict)),
        "study holds other keys: the first line of its file in conf/study must be '# @package _global_'",
    )
    file = checked(StudyFile, raw)
    check_names(file.settings)
    check_shared_model(file.model)
    shared = {field.name: getattr(file, field.name) for field in dataclasses.fields(Sections)}
    settings = {name: _setting(name, own, file.model, raw["train"]) for name, own in file.settings.items()}
    params = Params(**shared, settings=settings)
    check_together(params)
    return params


def _setting(name: str, overrides: dict[str, Any], model: dict[str, Any], train: dict[str, Any]) -> Setting:
    """The setting with its ``overrides`` of ``model`` and ``train`` and, below both, its preset's values."""
    key = f"settings.{name}"
    merged = {**model, **overrides}
    own_train, preset, initial = (merged.pop(name, default) for name, default in OWN_KEYS.items())
    require(isinstance(own_train, dict), f"{key}.train must be a mapping of keys to values, not {shown(own_train)}")
    if preset is not None:
        is_preset = isinstance(preset, str) and preset in presets
        require(is_preset, f"{key}: preset={shown(preset)} is not allowed: {', '.join(presets)}")
        merged = {**dataclasses.asdict(presets[preset]), **merged}
    content = {"name": name, "model": merged, "train": {**train, **own_train}, "initial": initial}
    return checked(Setting, content, key)
