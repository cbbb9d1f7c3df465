"""Reads and checks ``params.yaml``. No other module of the pipeline parses it.

Pydantic checks keys and types. The dataclasses check values themselves: ``ModelConfig`` and ``TrainConfig`` in
``condensenet.config``, the others here. Every setting is checked, not only the one that a stage is about to run.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from condensenet.config import MAX_BATCH, AugmentConfig, ModelConfig, TrainConfig, check_type, require
from condensenet.deploy.latency.measure import MAX_RUNS, MAX_THREADS, MIN_RUNS, WARMUP
from condensenet.deploy.opset import DEFAULT_OPSET, check_opset
from condensenet.models.presets import presets
from condensenet.text import shown
from tasks import paths, plain_yaml
from tasks.errors import UserError
from tasks.networks import MOBILENET, NETWORKS
from tasks.plain_yaml import MAX_NAME, check_plain
from tasks.storage import check_address

# Names become parts of file names, which may have 255 characters, and stand in YAML files without quotes: a YAML parser
# reads 010, 1e5 and, by version 1.1, "no" as something else than text.
NAME_PATTERN = f"^[A-Za-z][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
ENCODED = ("imagefolder", "imagenet", "parquet")  # sources whose images are kept as they are
NOT_NAMES = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")

# Upper bounds, as in condensenet.config: far above what is used, low enough that nothing hangs.
MAX_PIXELS = 4_096  # of an image's side: 64 MiB in float32, of three channels 192
MAX_IMAGES = 10**9
MAX_WORKERS = 10_000
MAX_FAILURES = 10_000

Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
Images = Annotated[int, Field(ge=0, le=MAX_IMAGES)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Threads = Annotated[int, Field(ge=1, le=MAX_THREADS)]
ThreadsOrAll = Annotated[int, Field(ge=0, le=MAX_THREADS)]
Failures = Annotated[int, Field(ge=0, le=MAX_FAILURES)]
Rounds = Annotated[int, Field(ge=MIN_RUNS, le=MAX_RUNS)]


def _whole(value: object) -> object:
    """``Literal[1, 3]`` alone takes true for 1."""
    if type(value) is not int:
        raise PydanticCustomError("whole", "it must be a whole number")
    return value


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
    image_size: Pixels = 32  # height and width in pixels of the network's input
    channels: Annotated[Literal[1, 3], BeforeValidator(_whole)] = 3  # images are decoded to 3 (RGB) or 1 (grayscale)
    shorter_side: Pixels | None = None  # larger images are stored with this shorter side (null: unchanged)
    raw: bool = False  # store pixels, which training need not decode, instead of image files; needs shorter_side
    validation_images: Images = 0  # held out of the training images; 0: epochs are validated on the test images
    train_images: Images | None = None  # of the others, train on this many, of each class its share; null: all
    max_corrupt: Images = 0  # corrupt images to skip and list; one more is an error
    allow_empty_classes: bool = False  # accept classes without training images, as in a small sample
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        require(
            self.shorter_side is None or self.shorter_side >= self.image_size,
            f"shorter_side={self.shorter_side} is not allowed: null, or at least image_size={self.image_size}",
        )
        require(
            self.source != "digits" or self.path is None,
            f"path={shown(self.path)} is not allowed with source='digits', whose images come with scikit-learn",
        )
        self.augment.check_crop_sizes(self.augment.crop_size or self.image_size)
        require(
            self.augment.pad <= self.image_size,
            f"augment.pad={self.augment.pad} is not allowed: at most image_size={self.image_size}",
        )
        require(
            not self.raw or self.shorter_side is not None,
            "raw=true is not allowed with shorter_side=null: whole photographs as pixels take too much space",
        )
        require(
            self.source not in ENCODED or self.path is not None,
            f"path=null is not allowed with source={self.source!r}: give the folder of the images",
        )


def _workers(value: object) -> int | tuple[int, int]:
    """A number of workers, or the least and the most."""
    limits = value if isinstance(value, list | tuple) else [value]
    numbers = [each for each in limits if type(each) is int and 0 < each <= MAX_WORKERS]
    if len(numbers) == len(limits) == 1 and numbers[0] == value:
        return numbers[0]
    if len(numbers) == len(limits) == 2 and numbers[0] <= numbers[1]:
        return numbers[0], numbers[1]
    raise PydanticCustomError("workers", f"it must be 1 or more, or two such numbers, [least, most], to {MAX_WORKERS}")


Workers = Annotated[int | tuple[int, int], PlainValidator(_workers)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RayParams:
    """Training runs in ``num_workers`` processes, each with ``threads_per_worker`` CPU threads and, with
    ``use_gpu``, one GPU.

    Two numbers are the least and the most: Ray takes as many as the cluster has room for, and starts over from the last
    checkpoint with more or fewer when nodes come or go. Another number of workers gives other bits.
    """

    num_workers: Workers = 2
    threads_per_worker: Threads = 1
    loader_threads: Threads | None = None  # of a worker, that load images; null: threads_per_worker. Changes no weights
    use_gpu: bool = False
    max_failures: Failures = 2  # restarts from the last checkpoint after a worker is lost
    storage: str | None = None  # of trainings in progress, which all nodes share: a folder, or s3://bucket/prefix

    def __post_init__(self) -> None:
        if self.storage is not None:
            check_address(self.storage)

    @property
    def threads_that_load(self) -> int:
        return self.loader_threads or self.threads_per_worker

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
            f"plan={shown(self.plan)} is not allowed: portable, measured, or the path of a plan file (.json)",
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateParams:
    batch_size: BatchSize = 256


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchmarkParams:
    """How latency is measured. MobileNetV1 at the same input size is always measured alternately with the model."""

    runs: Rounds = MIN_RUNS
    warmup: Annotated[int, Field(ge=1, le=MAX_RUNS)] = WARMUP
    throughput_batch: BatchSize = 16
    threads: Annotated[tuple[ThreadsOrAll, ...], Field(min_length=1, max_length=16)] = (
        1,
        0,
    )  # thread counts; 0: all cores


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TablesParams:
    """Which networks the tables time, at which size; MobileNetV1 always, right before each of them."""

    image_size: Annotated[int, Field(ge=32, le=MAX_PIXELS)] = 224
    rounds: Rounds = MIN_RUNS
    networks: Annotated[tuple[str, ...], Field(min_length=1, max_length=len(NETWORKS))] = NETWORKS

    def __post_init__(self) -> None:
        for name in self.networks:
            require(name in NETWORKS, f"networks={shown(name)} is not allowed: {', '.join(NETWORKS)}")
        require(set(self.networks) != {MOBILENET}, f"networks={list(self.networks)} is not allowed: others too")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Setting:
    """One model under comparison and how it is trained."""

    name: str
    model: ModelConfig
    train: TrainConfig
    # A model file to start from, relative to the checkout; null: random weights. DVC does not follow its content: when
    # that has changed, run dvc repro -f train@SETTING.
    initial: str | None = None


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
        _check_name(self.study, "study")
        require(
            self.study.casefold() != paths.TABLES.name,
            f"study={self.study!r} is not allowed: its outputs are not a study's",
        )


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
MAX_STEP_BYTES = 2**38  # 256 GiB: no accelerator has more memory
OWN_KEYS: dict[str, Any] = {"train": {}, "preset": None, "initial": None}  # of a setting, beside those of the model
EXPECTED = {  # for error types that pydantic words for Python programmers
    "string_pattern_mismatch": f"a letter, then letters, digits, - and _, at most {MAX_NAME} characters",
    "tuple_type": "it must be a list",
    "too_short": "it must not be empty",
}


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
    file = _checked(_File, raw)
    _check_names(file.settings)
    _check_shared_model(file.model)
    shared = {field.name: getattr(file, field.name) for field in dataclasses.fields(_Sections)}
    settings = {name: _setting(name, own, file.model, raw["train"]) for name, own in file.settings.items()}
    params = Params(**shared, settings=settings)
    _check_batch_sizes(params)
    _check_norms(params)
    _check_gpu_decoding(params)
    _check_memory(params)
    _check_image_size(params)
    return params


def _check_name(name: str, key: str) -> None:
    is_text = name.casefold() not in NOT_NAMES
    require(is_text, f"{key}={name!r} is not allowed: without quotes it would be a truth value or null in YAML")


def _check_names(names: Iterable[str]) -> None:
    """Some file systems do not tell ``A`` from ``a``, and the outputs of each setting need a folder."""
    seen: dict[str, str] = {}
    for name in names:
        _check_name(name, "settings: name")
        other = seen.setdefault(name.casefold(), name)
        differs = "is not allowed: they differ in case only"
        require(other == name, f"settings: name {name!r} beside {other!r} {differs}")


def _check_shared_model(model: dict[str, Any]) -> None:
    """Also the values that every setting overrides have the types of their keys."""
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    for name, value in model.items():
        if name == "preset":
            continue  # the settings tell
        require(name in names, f"unknown key model.{name}: allowed are preset, {', '.join(names)}")
        try:
            check_type(ModelConfig, name, value)
        except ValueError as error:
            raise ValueError(f"model: {error}") from None


def _check_memory(params: Params) -> None:
    """What a training step takes at least is known before any work starts: a worker's features of all blocks."""
    for name, setting in params.settings.items():
        model, size = setting.model, params.data.augment.crop_size or params.data.image_size
        values = setting.model.in_channels * size**2
        size = -(-size // {"cifar": 1, "imagenet": 2, "densenet": 4}[model.stem])
        for _, channels in model.block_channels():
            values += channels * size**2
            size = max(size // 2, 1)
        images = -(-setting.train.batch_size // (params.ray.max_workers * setting.train.gradient_accumulation))
        require(
            4 * values * images <= MAX_STEP_BYTES,
            f"settings.{name}: train.batch_size={setting.train.batch_size} is not allowed: a step would take at least "
            f"{4 * values * images // 2**30} GiB in each of {params.ray.max_workers} workers, "
            f"at most {MAX_STEP_BYTES // 2**30} are allowed",
        )


def _check_batch_sizes(params: Params) -> None:
    workers = params.ray.num_workers
    if not isinstance(workers, int):
        return  # as many as can divide a batch
    for name, setting in params.settings.items():
        batch, parts = setting.train.batch_size, setting.train.gradient_accumulation
        require(
            batch % workers == 0,
            f"settings.{name}: train.batch_size={batch} is not allowed: "
            f"it must be divisible by ray.num_workers={workers}",
        )
        require(
            batch // workers % parts == 0,
            f"settings.{name}: train.gradient_accumulation={parts} is not allowed: "
            f"it must divide a worker's {batch // workers} images",
        )


def _check_norms(params: Params) -> None:
    for name, setting in params.settings.items():
        require(
            params.ray.use_gpu or not setting.train.sync_batch_norm,
            f"settings.{name}: train.sync_batch_norm=true is not allowed with ray.use_gpu=false: torch has it for GPUs",
        )


def _check_gpu_decoding(params: Params) -> None:
    for name, setting in params.settings.items():
        if not setting.train.gpu_decoding:
            continue
        require(
            params.ray.use_gpu,
            f"settings.{name}: train.gpu_decoding=true is not allowed with ray.use_gpu=false: only GPUs decode",
        )
        require(
            not params.data.raw,
            f"settings.{name}: train.gpu_decoding=true is not allowed with data.raw=true: nothing is left to decode",
        )
        require(
            params.data.source in ENCODED,
            f"settings.{name}: train.gpu_decoding=true is not allowed with data.source={params.data.source!r}, whose "
            f"images are stored decoded: only with {', '.join(ENCODED)}",
        )
        try:
            params.data.augment.check_gpu_decoding()
        except ValueError as error:
            raise ValueError(f"settings.{name}: {error}") from None


def _check_image_size(params: Params) -> None:
    sizes = {"image_size": params.data.image_size}
    for key in ("crop_size", "first_crop_size"):
        sizes[f"augment.{key}"] = getattr(params.data.augment, key) or params.data.image_size
    for name, setting in params.settings.items():
        model = setting.model
        for key, size in sizes.items():
            require(
                size >= model.min_image_size,
                f"settings.{name}: {len(model.block_depths)} blocks after the stem {model.stem!r} need images of at "
                f"least {model.min_image_size} pixels, data.{key}={size}: use fewer blocks or a larger {key}",
            )


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
    return _checked(Setting, content, key)


def _checked(kind: type[T], raw: object, key: str = "") -> T:
    """An instance of the dataclass ``kind`` from the YAML values ``raw`` at ``key``."""
    try:  # as JSON: pydantic's strict mode takes a list for a tuple, or a mapping for a dataclass, from JSON only
        checked: T = _adapter(cast("Any", kind)).validate_json(json.dumps(raw, default=str))
        return checked
    except ValidationError as error:
        first = min(error.errors(), key=lambda details: details["type"] == "missing")  # it may be a misspelt key
        raise ValueError(_message(first, kind, key)) from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _message(error: Any, kind: type, prefix: str) -> str:
    """One line about ``error``, one of those that pydantic reports when it checks ``kind``."""
    location = [str(part) for part in error["loc"]]
    own = (
        location[1:] if kind is Setting and location[:1] == ["model"] else location
    )  # a setting holds its model's keys
    key = ".".join(part for part in (prefix, *own) if part)
    value = shown(error["input"])
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "unexpected_keyword_argument":
            return f"unknown key {key}: allowed are {', '.join(_field_names(kind, location[:-1]))}"
        case "dataclass_type" | "dict_type":
            return f"{key or 'the file'} must be a mapping of keys to values, not {value}"
        case "json_invalid":
            return f"{key or 'the file'} is nested too deeply or has text that is not Unicode"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
    expected = EXPECTED.get(error["type"], error["msg"].replace("Input should", "it must"))
    subject = f"{location[0]}: name {value}" if "[key]" in location else f"{key}={value}"
    return f"{subject} is not allowed: {expected}"


def _field_names(kind: type, location: list[str]) -> list[str]:
    """The fields of the dataclass at ``location`` in the dataclass ``kind``."""
    for name in location:
        kind = get_type_hints(kind)[name]
    return [field.name for field in dataclasses.fields(kind)]


def no_arguments() -> None:
    """For a stage that has no setting: ``--help`` shows what it does, and any argument is an error."""
    names = Path(sys.argv[0]).with_suffix("").parts
    inside = names[len(names) - names[::-1].index("tasks") :] if "tasks" in names else names[-1:]
    usage = f"usage: python -m {'.'.join(('tasks', *inside)).removesuffix('.__main__')}"
    if set(sys.argv[1:]) & {"-h", "--help"}:
        print(f"{usage}\n\n{sys.modules['__main__'].__doc__}")
        sys.exit()
    if sys.argv[1:]:
        raise UserError(f"{usage}, without {' '.join(sys.argv[1:])}")


def stage_arguments() -> tuple[Params, Setting]:
    """The parameters and the setting that the command line names."""
    usage = f"usage: python -m tasks.{Path(sys.argv[0]).stem} SETTING"
    if set(sys.argv[1:]) & {"-h", "--help"}:
        print(f"{usage}\n\n{sys.modules['__main__'].__doc__}")
        sys.exit()
    params = load()
    if len(sys.argv) != 2:
        raise UserError(f"{usage}, one of {', '.join(params.settings)}")
    return params, params.setting(sys.argv[1])
