"""Our training and the authors', stepped alternately in one process and timed.

Both train the same network from the same weights on the same images, each through its own data pipeline. A step is all
that a user waits for: loading the batch, the check whether to prune, and the step itself.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks import authors_training
from benchmarks.reporting import synchronise
from benchmarks.rounds import in_time
from condensenet import AugmentConfig, CondenseNet, ModelConfig, TrainConfig
from condensenet.data import PreparedData, write_prepared
from condensenet.interop import authors_state_dict
from condensenet.models import kernels
from condensenet.training import Trainer

CIFAR_AUGMENT = AugmentConfig(crop="pad", pad=4, flip=True)
CHUNK = 1000  # images generated at once


class Training(Protocol):
    def go_to(self, progress: float) -> None:
        """Continue from ``progress``, in [0, 1), with the pruning due by then done; never backwards."""

    def step(self) -> float:
        """Take one step. Returns the seconds spent waiting for its batch."""


class OurTraining:
    """``condensenet.training.Trainer``, driven as ``fit`` drives it."""

    def __init__(
        self,
        model: CondenseNet,
        data: PreparedData,
        config: TrainConfig,
        device: torch.device,
        augment: AugmentConfig = CIFAR_AUGMENT,
    ) -> None:
        self.trainer = Trainer(model, data, augment, config, None, device)
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(())

    def go_to(self, progress: float) -> None:
        trainer = self.trainer
        trainer.step = round(progress * trainer.steps_per_epoch * trainer.config.epochs)
        trainer.condense()
        self.batches = iter(trainer.batches())

    def step(self) -> float:
        started = time.perf_counter()
        batch = self.next_batch()
        data_s = time.perf_counter() - started
        self.trainer.condense()
        self.trainer.train_step(*batch)
        return data_s

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next batch of this epoch or, after its last, the first of the next epoch."""
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.trainer.batches())
            batch = next(self.batches)
        return batch


class WithoutKernels:
    """Another training on a CPU, with the compiled kernels off."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def go_to(self, progress: float) -> None:
        self.training.go_to(progress)

    def step(self) -> float:
        before = os.environ.get(kernels.SWITCH, "on")
        os.environ[kernels.SWITCH] = "off"
        try:
            return self.training.step()
        finally:
            os.environ[kernels.SWITCH] = before


class AuthorsTraining:
    """The authors' loop, with ``workers`` processes that load its batches (0: none)."""

    def __init__(
        self, model: CondenseNet, data: PreparedData, config: TrainConfig, device: torch.device, workers: int
    ) -> None:
        self.stages = model.config.condensation_factor - 1
        self.net = authors_training.AuthorsNet(model.config, data.manifest.image_size)
        self.net.load_state_dict(authors_state_dict(model))
        self.trainer = authors_training.AuthorsTrainer(self.net, config, device)
        loader = authors_training.train_loader(data.split("train"), CIFAR_AUGMENT, config.batch_size, workers)
        self.batches = authors_training.endless(loader)
        self.progress, self.increment = 0.0, 1 / (config.epochs * len(loader))
        self.net.train()

    def go_to(self, progress: float) -> None:
        """Stage by stage, because their code drops too little when a stage is skipped."""
        for stage in range(1, self.stages + 1):
            if self.progress < (due := stage / (2 * self.stages)) <= progress:
                self.net.reach(due)
        self.progress = progress

    def step(self) -> float:
        started = time.perf_counter()
        images, labels = next(self.batches)
        data_s = time.perf_counter() - started
        self.trainer.step(images, labels, self.progress)
        self.progress += self.increment
        return data_s


@dataclass(frozen=True)
class StepTime:
    """Mean seconds per step over a few steps, and the part of them spent waiting for data."""

    step_s: float
    data_s: float


def time_steps(training: Training, steps: int, settle: int, device: torch.device) -> StepTime:
    """Time ``steps`` steps after ``settle`` untimed ones, which use up the batches loaded while others ran."""
    for _ in range(settle):
        training.step()
    synchronise(device)
    started = time.perf_counter()
    data_s = sum(training.step() for _ in range(steps))
    synchronise(device)
    return StepTime((time.perf_counter() - started) / steps, data_s / steps)


def time_alternately(
    trainings: Sequence[Training], rounds: int, steps: int, settle: int, device: torch.device, until: float = np.inf
) -> list[list[StepTime]]:
    """For each training its step time in every round, in which all of them run; every other round goes backwards.

    ``until``: see ``in_time``.
    """
    times: list[list[StepTime]] = [[] for _ in trainings]
    for number in in_time(range(rounds), until):
        order = range(len(trainings)) if number % 2 == 0 else reversed(range(len(trainings)))
        for index in order:
            times[index].append(time_steps(trainings[index], steps, settle, device))
    return times


def new_model(config: ModelConfig, seed: int = 0) -> CondenseNet:
    torch.manual_seed(seed)
    return CondenseNet(config)


@contextmanager
def prepared(folder: Path | None, images: int, image_size: int, num_classes: int) -> Iterator[PreparedData]:
    """The prepared images in ``folder`` or, without one, random images in a temporary folder.

    Training speed does not depend on what the images show.
    """
    if folder is not None:
        yield PreparedData(folder)
        return
    with tempfile.TemporaryDirectory(prefix="condensenet-bench-") as temporary:
        root = Path(temporary) / "data"
        pixels = random_pixels(images, image_size)
        labels = np.arange(images) % num_classes
        test = slice(0, min(images, CHUNK))
        splits = {"train": (pixels, labels), "test": (pixels[test], labels[test])}
        write_prepared(root, splits, name="random", classes=[str(label) for label in range(num_classes)])
        yield PreparedData(root)


def random_pixels(images: int, image_size: int) -> np.ndarray:
    """uint8, (images, 3, image_size, image_size), generated in chunks."""
    random = np.random.default_rng(0)
    pixels = np.empty((images, 3, image_size, image_size), np.uint8)
    for start in range(0, images, CHUNK):
        chunk = pixels[start : start + CHUNK]
        chunk[:] = random.integers(0, 256, chunk.shape, dtype=np.uint8)
    return pixels
