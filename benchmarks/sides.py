"""The two trainings that are compared, each taking one step at a time: ours and the yardstick's.

Both train the same network from the same weights on the same images, each by its own data pipeline. A step is what a
user waits for: its batch (``data_s``), the drop check, and the step itself (``step_s``).
"""

from __future__ import annotations

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
from condensenet import CondenseNet, ModelConfig
from condensenet.config import AugmentConfig, TrainConfig
from condensenet.data import PreparedData, write_prepared
from condensenet.interop import authors_state_dict
from condensenet.training import Trainer

CIFAR_AUGMENT = AugmentConfig(crop="pad", pad=4, flip=True)
CHUNK = 1000  # images generated at once


@dataclass(frozen=True)
class Step:
    """Seconds of one step: waiting for the batch, and all the rest. On a GPU only the host's part is seen."""

    data_s: float
    step_s: float


class Side(Protocol):
    def go_to(self, progress: float) -> None:
        """Stand at ``progress``, in [0, 1), with its drops done; never back."""

    def step(self) -> Step: ...


class Ours:
    """``condensenet.training.Trainer`` as ``fit`` drives it."""

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

    def step(self) -> Step:
        started = time.perf_counter()
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.trainer.batches())
            batch = next(self.batches)
        loaded = time.perf_counter()
        self.trainer.condense()
        self.trainer.train_step(*batch)
        return Step(loaded - started, time.perf_counter() - loaded)


class Yardstick:
    """The authors' loop: ``workers`` processes load its batches, 0 for none."""

    def __init__(
        self,
        model: CondenseNet,
        data: PreparedData,
        config: TrainConfig,
        device: torch.device,
        workers: int,
        augment: AugmentConfig = CIFAR_AUGMENT,
    ) -> None:
        self.stages = model.config.condensation_factor - 1
        self.net = authors_training.YardstickNet(model.config, data.manifest.image_size)
        self.net.load_state_dict(authors_state_dict(model))
        self.trainer = authors_training.YardstickTrainer(self.net, config, device)
        split = data.split("train")
        loader = authors_training.train_loader(split, augment, config.batch_size, workers)
        self.batches = authors_training.endless(loader)
        self.progress, self.increment = 0.0, 1 / (config.epochs * len(loader))
        self.net.train()

    def go_to(self, progress: float) -> None:
        """Stage by stage: their code drops too little when it skips one."""
        stages = self.stages
        for stage in range(1, stages + 1):
            if self.progress < (due := stage / (2 * stages)) <= progress:
                self.net.reach(due)
        self.progress = progress

    def step(self) -> Step:
        started = time.perf_counter()
        images, labels = next(self.batches)
        loaded = time.perf_counter()
        self.trainer.step(images, labels, self.progress)
        self.progress += self.increment
        return Step(loaded - started, time.perf_counter() - loaded)


@dataclass(frozen=True)
class Block:
    """Seconds a step over a few steps, the whole and the wait for data in it."""

    step_s: float
    data_s: float


def block(side: Side, steps: int, settle: int, device: torch.device) -> Block:
    """Time ``steps`` steps after ``settle`` untimed ones, which use up what was loaded while the other side ran."""
    for _ in range(settle):
        side.step()
    synchronise(device)
    started = time.perf_counter()
    waits = [side.step().data_s for _ in range(steps)]
    synchronise(device)
    return Block((time.perf_counter() - started) / steps, sum(waits) / steps)


def in_turn(
    sides: Sequence[Side], blocks: int, steps: int, settle: int, device: torch.device, until: float = float("inf")
) -> list[list[Block]]:
    """``blocks`` blocks of each side, one after the other, the order turned each time; at least one of each.

    Ends before ``until``, a time of ``time.monotonic``, if another turn would not.
    """
    found: list[list[Block]] = [[] for _ in sides]
    longest = 0.0
    for turn in range(blocks):
        started = time.monotonic()
        if turn > 0 and started + longest > until:
            break
        order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            found[place].append(block(sides[place], steps, settle, device))
        longest = max(longest, time.monotonic() - started)
    return found


def new_model(config: ModelConfig, seed: int = 0) -> CondenseNet:
    torch.manual_seed(seed)
    return CondenseNet(config)


@contextmanager
def prepared(folder: Path | None, images: int, image_size: int, num_classes: int) -> Iterator[PreparedData]:
    """The prepared images in ``folder``; without one, random images in a temporary folder.

    The speed of a training does not depend on what its images show.
    """
    if folder is not None:
        yield PreparedData(folder)
        return
    with tempfile.TemporaryDirectory(prefix="condensenet-bench-") as temporary:
        root = Path(temporary) / "data"
        random = np.random.default_rng(0)
        pixels = np.empty((images, 3, image_size, image_size), np.uint8)
        for start in range(0, images, CHUNK):
            part = pixels[start : start + CHUNK]
            part[:] = random.integers(0, 256, part.shape, dtype=np.uint8)
        labels = np.arange(images) % num_classes
        few = slice(0, min(images, CHUNK))
        splits = {"train": (pixels, labels), "test": (pixels[few], labels[few])}
        write_prepared(root, splits, name="random", classes=[str(label) for label in range(num_classes)])
        yield PreparedData(root)
