"""Training: ``fit`` is a generator over epochs; it yields, the caller logs.

A training is exact: with the same configuration, data and number of processes it gives the same weights to the bit
on the same kind of CPU with the same number of threads, also when it was killed and resumed from a checkpoint, in
the middle of an epoch too. That is so because nothing depends on hidden state: batches are functions of (seed,
epoch, index), dropout of (seed, step, rank), the schedule of the step, and after each step all ranks hold equal
weights, batch norm statistics and running sums, so the checkpoint of rank 0 is that of all.

Paper: section 4.1 and the recipe in section 5.1.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condensenet import checkpoint, parallel
from condensenet.condensing import condensing_stage
from condensenet.config import AugmentConfig, TrainConfig, recipe
from condensenet.data import PreparedData, steps_per_epoch, train_batches
from condensenet.data.resident import place
from condensenet.evaluation import autocast, evaluate, to_device
from condensenet.models.condensenet import CondenseNet, group_lasso
from condensenet.optimizer import NesterovSGD

log = logging.getLogger(__name__)


class TrainingStopped(Exception):
    """Training cannot go on; its message is one line. The last good checkpoint is kept."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One row of the history. Losses are cross-entropies a image; ``group_lasso`` is unweighted, at the epoch's end."""

    epoch: int  # from 1
    condensing_stage: int  # at the epoch's end
    learning_rate: float  # of the epoch's last step
    train_loss: float  # mean over the epoch, without the group lasso
    group_lasso: float
    train_error_pct: float
    validation_loss: float
    validation_error_pct: float
    kept_pct: float  # share of the weights of all learned layers that is not dropped
    seconds: float  # evaluation included


def fit(
    model: CondenseNet,
    data: PreparedData,
    augment: AugmentConfig,
    config: TrainConfig,
    *,
    checkpoints: Path | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[EpochResult]:
    """Train ``model`` in place and yield one result an epoch; all that a resumed training already had come first.

    With an initialised process group every rank calls this and consumes it alike. ``checkpoints`` is a folder for
    this training alone; what stands there is resumed. Raises ``ValueError`` when it is of another training, and
    ``TrainingStopped`` when the loss is no longer finite.
    """
    trainer = Trainer(model, data, augment, config, checkpoints, torch.device(device))
    trainer.resume()
    yield from list(trainer.history)
    while trainer.epoch < config.epochs:
        started = time.monotonic() - trainer.seconds
        for images, labels in trainer.batches():
            trainer.condense()
            trainer.train_step(images, labels)
            if trainer.step % config.checkpoint_every_steps == 0 and trainer.step % trainer.steps_per_epoch:
                trainer.save(seconds=time.monotonic() - started)
        if trainer.progress == 1:
            trainer.condense()  # a drop that is due at the very end has no step after it
        trainer.finish_epoch(started)
        yield trainer.history[-1]


def cosine_learning_rate(learning_rate: float, progress: float) -> float:
    """From ``learning_rate`` at progress 0 to 0 at progress 1."""
    return learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def kept_pct(model: CondenseNet) -> float:
    """Share of the weights of all learned layers that is not dropped, in %."""
    layers = list(model.learned_layers())
    kept = sum(layer.full_weight.numel() * (1 - layer.num_dropped / layer.in_channels) for layer in layers)
    return 100 * kept / sum(layer.full_weight.numel() for layer in layers)


class Trainer:
    """One training: the model, its optimizer, and how far it is. ``fit`` drives it; a benchmark may take its steps."""

    def __init__(
        self,
        model: CondenseNet,
        data: PreparedData,
        augment: AugmentConfig,
        config: TrainConfig,
        checkpoints: Path | None,
        device: torch.device,
    ) -> None:
        self.model, self.augment, self.config, self.device = model.to(device), augment, config, device
        self.checkpoints = checkpoints
        data.manifest.check_model(model.config)
        self.train_split = place(data.split("train"), device, augment=augment)
        self.evaluation_split = place(data.evaluation_split, device)
        self.recipe = recipe(model.config, config, augment, data.manifest.fingerprint)
        self.steps_per_epoch = steps_per_epoch(self.train_split, config.batch_size)
        self.optimizer = NesterovSGD(model.parameters(), momentum=config.momentum, weight_decay=config.weight_decay)
        self.statistics = [
            value
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for value in (module.running_mean, module.running_var)
            if value is not None
        ]
        self.step = 0
        self.learning_rate = config.learning_rate
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # of this epoch's steps: loss, error
        self.first_bad_step = torch.full((), -1, device=device)
        self.seconds = 0.0  # of this epoch, before the resume
        self.history: list[EpochResult] = []

    @property
    def epoch(self) -> int:
        """From 0."""
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        return self.step / (self.steps_per_epoch * self.config.epochs)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of this epoch."""
        self.model.train()
        return train_batches(
            self.train_split,
            augment=self.augment,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=self.epoch,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
            start_step=self.step % self.steps_per_epoch,
        )

    def condense(self) -> None:
        """Drop what the present progress asks for; all ranks must drop the same."""
        model, config = self.model, self.config
        due = condensing_stage(self.progress, model.num_condensing_stages, config.condensing_share)
        if due <= model.condensing_stage:
            return
        model.condense_to(due)
        parallel.check_same([layer.group_mask for layer in model.learned_layers()], f"masks of condensing stage {due}")
        for layer in model.learned_layers():
            self.optimizer.forget(layer.full_weight, layer.mask)

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        config, model = self.config, self.model
        images, labels = to_device(self.device, images, labels)
        if model.config.dropout > 0:
            torch.manual_seed(_dropout_seed(config.seed, self.step, parallel.rank()))
        self.learning_rate = cosine_learning_rate(config.learning_rate, self.progress)
        with autocast(self.device, config.precision):
            logits = model(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        objective = loss
        if config.group_lasso_weight > 0 and not model.is_condensed:
            objective = loss + config.group_lasso_weight * group_lasso(model)
        self.optimizer.zero_grad()
        objective.backward()
        error = (logits.argmax(dim=1) != labels).float().mean()
        figures = torch.stack([loss.detach(), error])
        parallel.average_([*self.optimizer.gradients, *self.statistics, figures])
        self.optimizer.step(self.learning_rate)
        self._add(figures)
        self.step += 1

    def _add(self, figures: Tensor) -> None:
        """Sum on the device: reading a value here would make every step wait for a GPU."""
        self.sums += figures
        bad = ~figures.isfinite().all() & (self.first_bad_step < 0)
        self.first_bad_step.masked_fill_(bad, self.step)

    def finish_epoch(self, started: float) -> None:
        """Evaluate, add the epoch's row to the history and save; the step count stands at the next epoch's start."""
        model, config = self.model, self.config
        validation_loss, validation_error_pct = evaluate(
            model, self.evaluation_split, config.batch_size, self.device, precision=config.precision
        )
        train_loss, train_error = (self.sums / self.steps_per_epoch).tolist()
        self.history.append(
            EpochResult(
                epoch=self.epoch,
                condensing_stage=model.condensing_stage,
                learning_rate=self.learning_rate,
                train_loss=train_loss,
                group_lasso=group_lasso(model).item(),
                train_error_pct=100 * train_error,
                validation_loss=validation_loss,
                validation_error_pct=validation_error_pct,
                kept_pct=kept_pct(model),
                seconds=time.monotonic() - started,
            )
        )
        self.sums.zero_()
        self.seconds = 0.0
        self.save(seconds=0.0)

    def resume(self) -> None:
        """Take up the newest whole checkpoint, which rank 0 reads, or start with the weights of rank 0."""
        found = None
        if self.checkpoints is not None and parallel.rank() == 0:
            found = checkpoint.load_newest(self.checkpoints)
        saved = parallel.from_rank_0(found)
        if saved is None:
            parallel.broadcast_(self.model.state_dict().values())
            return
        self._check_recipe(saved["recipe"])
        if saved["world_size"] != parallel.world_size():
            log.warning(
                "resumed with %d processes, begun with %d: the weights will not be those of an uninterrupted training "
                "to the bit",
                parallel.world_size(),
                saved["world_size"],
            )
        self.model.load_state_dict(saved["model"])
        for velocity, value in zip(self.optimizer.velocities, saved["velocities"], strict=True):
            velocity.copy_(value)
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.sums.copy_(saved["sums"])
        self.history = [EpochResult(**row) for row in saved["history"]]
        log.info("resumed after step %d (epoch %d)", self.step, self.epoch + 1)

    def _check_recipe(self, saved: dict[str, Any]) -> None:
        names = sorted(self.recipe.keys() | saved.keys())
        different = [
            f"{name} is {self.recipe.get(name)!r}, was {saved.get(name)!r}"
            for name in names
            if self.recipe.get(name) != saved.get(name)
        ]
        if different:
            raise ValueError(f"{self.checkpoints} holds a training with other parameters: {'; '.join(different)}")

    def save(self, seconds: float) -> None:
        """Write a checkpoint, after checking that it is worth one. Rank 0 writes; the others go on."""
        self._check_finite()
        if self.checkpoints is None or parallel.rank() != 0:
            return
        content = {
            "recipe": self.recipe,
            "world_size": parallel.world_size(),
            "step": self.step,
            "seconds": seconds,
            "sums": self.sums,
            "history": [asdict(row) for row in self.history],
            "model": self.model.state_dict(),
            "velocities": self.optimizer.velocities,
        }
        checkpoint.save(self.checkpoints, self.step, content)

    def _check_finite(self) -> None:
        finite = torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all()
        step = int(torch.where((self.first_bad_step < 0) & ~finite, self.step, self.first_bad_step))
        if step >= 0:
            epoch = step // self.steps_per_epoch + 1
            raise TrainingStopped(
                f"the loss is not finite at step {step} (epoch {epoch}) with learning_rate={self.config.learning_rate}"
            )


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step and rank, so that no random state needs saving."""
    return int.from_bytes(hashlib.sha256(f"dropout {seed} {step} {rank}".encode()).digest()[:7])
