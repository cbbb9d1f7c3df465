"""Reads and checks ``params.yaml``. No other module of the pipeline parses it.

Pydantic checks keys and types. The dataclasses check values themselves: ``ModelConfig`` and ``TrainConfig`` in
``condensenet.config``, the others here. Every setting is checked, not only the one that a stage is about to run.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, NonNegativeInt, PlainValidator, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig, require
from condensenet.deploy.latency.measure import MIN_RUNS, WARMUP
from condensenet.deploy.opset import DEFAULT_OPSET, check_opset
from condensenet.models.presets import presets
from tasks import paths
from tasks.errors import UserError
from tasks.networks import MOBILENET, NETWORKS
from tasks.storage import check_address

Name = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$")]
STRICT = ConfigDict(extra="forbid", strict=True)  # also holds for the library's dataclasses nested in those below


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataParams:
    """Where the images come from and how they are prepared.

    ``path`` is relative to the checkout. It is a file or folder for ``cifar10`` and ``cifar100`` (null: download), and
    for ``parquet`` and ``imagefolder`` the folder of both splits, which ``train`` and ``test`` name, and for
    ``imagenet`` the folder of the official archives.
    """

    source: Literal["digits", "cifar10", "cifar100", "imagefolder", "imagenet", "parquet"]
    path: str | None = None
    train: str = "train"  # imagefolder: subfolder; parquet: file name or glob, or several separated by commas
    test: str = "test"
    image_size: PositiveInt = 32  # height and width in pixels of the network's input
    channels: Literal[1, 3] = 3  # images are decoded to 3 (RGB) or 1 (grayscale)
    shorter_side: int | None = None  # larger images are stored with this shorter side (null: unchanged)
    raw: bool = False  # store pixels, which training need not decode, instead of image files; needs shorter_side
    validation_images: NonNegativeInt = 0  # held out of the training images; 0: epochs are validated on the test images
    max_corrupt: NonNegativeInt = 0  # corrupt images to skip and list; one more is an error
    allow_empty_classes: bool = False  # accept classes without training images, as in a small sample
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        require(
            self.shorter_side is None or self.shorter_side >= self.image_size,
            f"shorter_side={self.shorter_side} is not allowed: null, or at least image_size={self.image_size}",
        )
        require(
            not self.raw or self.shorter_side is not None,
            "raw=true is not allowed with shorter_side=null: whole photographs as pixels take too much space",
        )
        require(
            self.source not in ("imagefolder", "imagenet", "parquet") or self.path is not None,
            f"path=null is not allowed with source={self.source!r}: give the folder of the images",
        )


def _workers(value: object) -> int | tuple[int, int]:
    """A number of workers, or the least and the most."""
    limits = value if isinstance(value, list | tuple) else [value]
    numbers = [each for each in limits if isinstance(each, int) and not isinstance(each, bool) and each > 0]
    if len(numbers) == len(limits) == 1 and numbers[0] == value:
        return numbers[0]
    if len(numbers) == len(limits) == 2 and numbers[0] <= numbers[1]:
        return numbers[0], numbers[1]
    raise PydanticCustomError("workers", "it must be 1 or more, or two such numbers, [least, most]")


Workers = Annotated[int | tuple[int, int], PlainValidator(_workers)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RayParams:
    """Training runs in ``num_workers`` processes, each with one GPU or ``threads_per_worker`` CPU threads.

    Two numbers are the least and the most: Ray takes as many as the cluster has room for, and starts over from the last
    checkpoint with more or fewer when nodes come or go. Another number of workers gives other bits.
    """

    num_workers: Workers = 2
    threads_per_worker: PositiveInt = 1
    use_gpu: bool = False
    max_failures: NonNegativeInt = 2  # restarts from the last checkpoint after a worker is lost
    storage: str | None = None  # of trainings in progress, which all nodes share: a folder, or s3://bucket/prefix

    def __post_init__(self) -> None:
        if self.storage is not None:
            check_address(self.storage)

    @property
    def min_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportParams:
    """How the model is exported.

    ``plan`` chooses how the graph is lowered: by fixed rules (portable), by measurement on this machine (measured), or
    by the plan in a JSON file. ``{setting}`` in its path stands for the setting's name.
    """

    opset: int = DEFAULT_OPSET
    plan: str = "portable"

    def __post_init__(self) -> None:
        check_opset(self.opset)
        require(
            self.plan in ("portable", "measured") or self.plan.endswith(".json"),
            f"plan={self.plan!r} is not allowed: portable, measured, or the path of a plan file (.json)",
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateParams:
    batch_size: PositiveInt = 256


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchmarkParams:
    """How latency is measured. MobileNetV1 at the same input size is always measured alternately with the model."""

    runs: Annotated[int, Field(ge=MIN_RUNS)] = MIN_RUNS
    warmup: PositiveInt = WARMUP
    throughput_batch: PositiveInt = 16
    threads: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (1, 0)  # thread counts; 0: all cores


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TablesParams:
    """Which networks the tables time, at which size; MobileNetV1 always, right before each of them."""

    image_size: Annotated[int, Field(ge=32)] = 224
    rounds: Annotated[int, Field(ge=MIN_RUNS)] = MIN_RUNS
    networks: Annotated[tuple[str, ...], Field(min_length=1)] = NETWORKS

    def __post_init__(self) -> None:
        for name in self.networks:
            require(name in NETWORKS, f"networks={name!r} is not allowed: {', '.join(NETWORKS)}")
        require(set(self.networks) != {MOBILENET}, f"networks={list(self.networks)} is not allowed: others too")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Setting:
    """One model under comparison and how it is trained."""

    name: str
    model: ModelConfig
    train: TrainConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Sections:
    """What a study's file and its checked parameters share."""

    study: Name
    data: DataParams
    ray: RayParams
    export: ExportParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams
    tables: TablesParams = TablesParams()

    def __post_init__(self) -> None:
        require(self.study != paths.TABLES.name, f"study={self.study!r} is not allowed: its outputs are not a study's")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _File(_Sections):
    """``params.yaml`` as written. A setting overrides keys of ``model`` and, under ``train``, keys of ``train``."""

    model: dict[str, Any]
    train: TrainConfig
    settings: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Params(_Sections):
    settings: dict[str, Setting]

    def setting(self, name: str) -> Setting:
        if name not in self.settings:
            raise UserError(f"setting {name!r} is not in params.yaml: {', '.join(self.settings)}")
        return self.settings[name]

    @property
    def paths(self) -> paths.StudyPaths:
        return paths.StudyPaths(self.study)


T = TypeVar("T")
MAX_VALUES = 10_000  # a file of a few aliases can stand for billions of values
MAX_SHOWN = 200  # characters of a value in an error
EXPECTED = {  # for error types that pydantic words for Python programmers
    "string_pattern_mismatch": "letters, digits, - and _",
    "tuple_type": "it must be a list",
    "too_short": "it must not be empty",
}


def load(path: Path = paths.PARAMS) -> Params:
    """Read and check ``params.yaml``.

    Raises ``UserError``, whose one line names the key, its value and what is allowed.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path)  # YAML 1.2, as DVC reads it: 1e-4 is a number
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the folder that holds it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return parse(raw)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def parse(raw: Any) -> Params:
    """The parameters in the content of a YAML file; raises ``ValueError`` with a one-line message."""
    _check_plain(raw)
    file = _checked(_File, raw)
    shared = {field.name: getattr(file, field.name) for field in dataclasses.fields(_Sections)}
    settings = {name: _setting(name, own, file.model, raw["train"]) for name, own in file.settings.items()}
    params = Params(**shared, settings=settings)
    _check_batch_sizes(params)
    return params


def _check_plain(raw: object) -> None:
    """Refuse keys other than strings, and nested or recursive YAML aliases that stand for very many values."""
    pending, count = [raw], 0
    while pending:
        value = pending.pop()
        count += 1
        require(count <= MAX_VALUES, f"it has more than {MAX_VALUES} values")
        if isinstance(value, dict):
            for key in value:
                require(isinstance(key, str), f"key {key!r} is not allowed: it must be a string")
        if isinstance(value, (dict, list)):
            pending.extend(value.values() if isinstance(value, dict) else value)


def _check_batch_sizes(params: Params) -> None:
    workers = params.ray.num_workers
    for name, setting in params.settings.items():
        require(
            not isinstance(workers, int) or setting.train.batch_size % workers == 0,
            f"settings.{name}: train.batch_size={setting.train.batch_size} is not allowed: "
            f"it must be divisible by ray.num_workers={workers}",
        )


def _setting(name: str, overrides: dict[str, Any], model: dict[str, Any], train: dict[str, Any]) -> Setting:
    """The setting with its ``overrides`` of ``model`` and ``train`` and, below both, its preset's values."""
    key = f"settings.{name}"
    merged = {**model, **overrides}
    own_train, preset = merged.pop("train", {}), merged.pop("preset", None)
    require(isinstance(own_train, dict), f"{key}.train must be a mapping of keys to values, not {own_train!r}")
    if preset is not None:
        is_preset = isinstance(preset, str) and preset in presets
        require(is_preset, f"{key}: preset={preset!r} is not allowed: {', '.join(presets)}")
        merged = {**dataclasses.asdict(presets[preset]), **merged}
    return _checked(Setting, {"name": name, "model": merged, "train": {**train, **own_train}}, key)


def _checked(kind: type[T], raw: object, key: str = "") -> T:
    """An instance of the dataclass ``kind`` from the YAML values ``raw`` at ``key``."""
    try:  # as JSON: pydantic's strict mode takes a list for a tuple, or a mapping for a dataclass, from JSON only
        return TypeAdapter(kind).validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        first = min(error.errors(), key=lambda details: details["type"] == "missing")  # it may be a misspelt key
        raise ValueError(_message(first, kind, key)) from None


def _message(error: Any, kind: type, prefix: str) -> str:
    """One line about ``error``, one of those that pydantic reports when it checks ``kind``."""
    location = [str(part) for part in error["loc"]]
    hidden = ("", "model") if kind is Setting else ("",)  # a setting holds its model's keys directly
    key = ".".join(part for part in (prefix, *location) if part not in hidden)
    value = repr(error["input"])
    shown = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}..."
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "unexpected_keyword_argument":
            return f"unknown key {key}: allowed are {', '.join(_field_names(kind, location[:-1]))}"
        case "dataclass_type" | "dict_type":
            return f"{key or 'the file'} must be a mapping of keys to values, not {shown}"
        case "json_invalid":
            return f"{key or 'the file'} is nested too deeply or has text that is not Unicode"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
    expected = EXPECTED.get(error["type"], error["msg"].replace("Input should", "it must"))
    subject = f"{location[0]}: name {shown}" if "[key]" in location else f"{key}={shown}"
    return f"{subject} is not allowed: {expected}"


def _field_names(kind: type, location: list[str]) -> list[str]:
    """The fields of the dataclass at ``location`` in the dataclass ``kind``."""
    for name in location:
        kind = get_type_hints(kind)[name]
    return [field.name for field in dataclasses.fields(kind)]


def stage_arguments() -> tuple[Params, Setting]:
    """The parameters and the setting that the command line names."""
    params = load()
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        module = "tasks." + Path(sys.argv[0]).stem
        raise UserError(f"usage: python -m {module} SETTING, one of {', '.join(params.settings)}")
    return params, params.setting(sys.argv[1])
