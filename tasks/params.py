"""``params.yaml``, read and checked: the one place of the pipeline that reads YAML parameters.

``load()`` either returns typed, frozen parameters or raises ``UserError`` with one line that names the key, the
value and what is allowed. All settings are checked, not only the one that a stage is about to run.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig, at_least_one, require
from condensenet.models.presets import presets
from tasks import paths
from tasks.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataParams:
    """Where the images come from and the prepared form that is made of them.

    ``path`` is a file or folder of the source's form, relative to the checkout; for ``cifar10`` and ``cifar100`` null
    means: download. For ``parquet`` and ``imagefolder`` it is a folder with a part for each split, named in ``train``
    and ``test``.
    """

    source: Literal["digits", "cifar10", "cifar100", "imagefolder", "parquet"]
    path: str | None = None
    train: str = "train"  # imagefolder: sub-folder; parquet: file name, glob, or several with commas between
    test: str = "test"
    image_size: int = 32  # height and width in pixels that the network sees
    channels: int = 3  # what images are decoded to: 3 is RGB, 1 is grey
    shorter_side: int | None = None  # large images: stored with this shorter side (null: as they are)
    validation_images: int = 0  # held out of the training images; 0: the epochs are measured on the test images
    max_corrupt: int = 0  # corrupt images tolerated (named and left out); one more is fatal
    allow_empty_classes: bool = False  # take a training part that lacks whole classes, such as a small sample
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        at_least_one(image_size=self.image_size)
        require(self.channels in (1, 3), f"channels={self.channels} is not allowed: 3 (RGB) or 1 (grey)")
        require(
            self.shorter_side is None or self.shorter_side >= self.image_size,
            f"shorter_side={self.shorter_side} is not allowed: null, or at least image_size={self.image_size}",
        )
        for name in ("validation_images", "max_corrupt"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} is not allowed: it must be 0 or more")
        require(
            self.source not in ("imagefolder", "parquet") or self.path is not None,
            f"path=null is not allowed with source={self.source!r}: give the folder of the images",
        )


@dataclass(frozen=True, kw_only=True)
class RayParams:
    """How training is spread: ``num_workers`` processes, each with one GPU or ``threads_per_worker`` CPU threads."""

    num_workers: int = 2
    threads_per_worker: int = 1
    use_gpu: bool = False
    max_failures: int = 2  # restarts from the last checkpoint after a lost worker
    storage: str | None = None  # folder for checkpoints in progress; must be shared when there are several nodes

    def __post_init__(self) -> None:
        at_least_one(num_workers=self.num_workers, threads_per_worker=self.threads_per_worker)
        require(self.max_failures >= 0, f"max_failures={self.max_failures} is not allowed: it must be 0 or more")


PLANS = ("portable", "measured")


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    """``plan`` says how the exported graph is lowered: by rules that hold anywhere, by what is measured on this
    machine, or by the plan in a file, in whose path ``{setting}`` is the setting's name."""

    opset: int = 18
    plan: str = "portable"

    def __post_init__(self) -> None:
        require(18 <= self.opset <= 25, f"opset={self.opset} is not allowed: 18 to 25")
        require(
            self.plan in PLANS or self.plan.endswith(".json"),
            f"plan={self.plan!r} is not allowed: {', '.join(PLANS)}, or the path of a plan file (.json)",
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    batch_size: int = 256

    def __post_init__(self) -> None:
        at_least_one(batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True)
class BenchmarkParams:
    """The latency protocol; every figure is taken in turn with MobileNetV1 at the same input size."""

    runs: int = 50
    warmup: int = 10
    throughput_batch: int = 16
    threads: tuple[int, ...] = (1, 0)  # 0: all cores

    def __post_init__(self) -> None:
        require(self.runs >= 50, f"runs={self.runs} is not allowed: the protocol takes at least 50")
        at_least_one(warmup=self.warmup, throughput_batch=self.throughput_batch)
        require(
            len(self.threads) > 0 and min(self.threads) >= 0,
            f"threads={list(self.threads)} is not allowed: a list of thread counts, 0 for all cores",
        )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model under comparison and how it is trained."""

    name: str
    model: ModelConfig
    train: TrainConfig


@dataclass(frozen=True, kw_only=True)
class Params:
    study: str
    data: DataParams
    ray: RayParams
    export: ExportParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams
    settings: dict[str, Setting]

    def setting(self, name: str) -> Setting:
        if name not in self.settings:
            raise UserError(f"setting {name!r} is not in params.yaml: {', '.join(self.settings)}")
        return self.settings[name]

    @property
    def paths(self) -> paths.StudyPaths:
        return paths.StudyPaths(self.study)


T = TypeVar("T")
SETTING_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SECTIONS = ("study", "data", "model", "train", "ray", "export", "evaluate", "benchmark", "settings")


def load(path: Path = paths.PARAMS) -> Params:
    """Read and check ``params.yaml``; raises ``UserError``."""
    try:
        raw = YAML(typ="safe", pure=True).load(path)  # YAML 1.2, as DVC reads it: 1e-4 is a number
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the folder that holds it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return parse(raw)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def parse(raw: object) -> Params:
    """Typed parameters from what the YAML file holds; raises ``ValueError`` with a one-line message."""
    sections = _mapping(raw, "the file")
    _check_keys(sections, SECTIONS, "")
    for name in SECTIONS:
        require(name in sections, f"{name} is missing: the file needs {', '.join(SECTIONS)}")
    study = sections["study"]
    require(_is_name(study), f"study={study!r} is not allowed: letters, digits, - and _")
    params = Params(
        study=study,
        data=_build(DataParams, sections["data"], "data"),
        ray=_build(RayParams, sections["ray"], "ray"),
        export=_build(ExportParams, sections["export"], "export"),
        evaluate=_build(EvaluateParams, sections["evaluate"], "evaluate"),
        benchmark=_build(BenchmarkParams, sections["benchmark"], "benchmark"),
        settings=_settings(sections),
    )
    _check_shares(params)
    return params


def _check_shares(params: Params) -> None:
    workers = params.ray.num_workers
    for name, setting in params.settings.items():
        require(
            setting.train.batch_size % workers == 0,
            f"settings.{name}: train.batch_size={setting.train.batch_size} is not allowed: "
            f"it must be divisible by ray.num_workers={workers}",
        )


def _settings(sections: dict[str, Any]) -> dict[str, Setting]:
    model = _mapping(sections["model"], "model")
    train = _mapping(sections["train"], "train")
    _build(TrainConfig, train, "train")
    settings = _mapping(sections["settings"], "settings")
    require(len(settings) > 0, "settings={} is not allowed: at least one setting is needed")
    return {name: _setting(name, overrides, model, train) for name, overrides in settings.items()}


def _setting(name: Any, overrides: object, model: dict[str, Any], train: dict[str, Any]) -> Setting:
    """``overrides`` holds keys of ``model`` and, under ``train``, keys of ``train``."""
    require(_is_name(name), f"settings: name {name!r} is not allowed: letters, digits, - and _")
    key = f"settings.{name}"
    own = dict(_mapping(overrides, key))
    own_train = _mapping(own.pop("train", {}), f"{key}.train")
    merged = {**model, **own}
    preset = merged.pop("preset", None)
    if preset is not None:
        known = isinstance(preset, str) and preset in presets
        require(known, f"{key}: preset={preset!r} is not allowed: {', '.join(presets)}")
        merged = {**_as_raw(presets[preset]), **merged}
    return Setting(
        name=name,
        model=_build(ModelConfig, merged, key),
        train=_build(TrainConfig, {**train, **own_train}, f"{key}.train"),
    )


def _as_raw(config: ModelConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _build(kind: type[T], raw: object, key: str) -> T:
    """An instance of the dataclass ``kind`` from the mapping ``raw`` that stands at ``key``."""
    values = _mapping(raw, key)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _check_keys(values, tuple(fields), f"{key}.")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        require(name in values or not required, f"{key}.{name} is missing")
    hints = get_type_hints(kind)
    built = {name: _value(hints[name], value, f"{key}.{name}") for name, value in values.items()}
    try:
        return kind(**built)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _value(hint: Any, value: object, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, key)  # type: ignore[arg-type]
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise ValueError(f"{key}={value!r} is not allowed: {what[0].lower()}{what[1:]}") from None


def _mapping(raw: object, key: str) -> dict[str, Any]:
    require(isinstance(raw, dict), f"{key} must be a mapping of keys to values, not {raw!r}")
    return raw  # type: ignore[return-value]


def _check_keys(values: dict[str, Any], allowed: tuple[str, ...], prefix: str) -> None:
    for name in values:
        require(name in allowed, f"unknown key {prefix}{name}: allowed are {', '.join(allowed)}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and SETTING_NAME.fullmatch(value) is not None


def stage_arguments() -> tuple[Params, Setting]:
    """The parameters and the setting that the command line names."""
    params = load()
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        module = "tasks." + Path(sys.argv[0]).stem
        raise UserError(f"usage: python -m {module} SETTING, one of {', '.join(params.settings)}")
    return params, params.setting(sys.argv[1])
