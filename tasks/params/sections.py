"""The sections of ``params.yaml`` that all studies have: their keys, types, limits and default values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from condensenet.config import AugmentConfig
from condensenet.config.bounds import MAX_BATCH
from condensenet.config.checks import require
from condensenet.deploy.latency.measure import MAX_RUNS, MAX_THREADS, MIN_RUNS, WARMUP
from condensenet.deploy.opset import DEFAULT_OPSET, check_opset
from condensenet.text import shown
from tasks.networks import MOBILENET, NETWORKS
from tasks.storage import check_address

ENCODED = ("imagefolder", "imagenet", "parquet")  # sources whose images are kept as they are

# Upper bounds, as in condensenet.config.bounds: far above what is used, low enough that nothing hangs.
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
