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
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condensenet.config import AugmentConfig, TrainConfig
from condensenet.data import PreparedData, steps_per_epoch, train_batches
from condensenet.data.resident import place
from condensenet.models.condensenet import CondenseNet, group_lasso
from condensenet.models.condensing import condensing_stage
from condensenet.training import distributed, state
from condensenet.training.cuda_graph import Replay, counted_together
from condensenet.training.evaluation import Interrupted, autocast, evaluate, evaluation_batch_size, on_device, to_device
from condensenet.training.optimizer import NesterovSGD
from condensenet.training.recipe import recipe
from condensenet.training.state import EpochResult, TrainingPaused, TrainingStopped

__all__ = ["EpochResult", "Trainer", "TrainingPaused", "TrainingStopped", "cosine_learning_rate", "fit", "kept_pct"]

# Steps on GPUs after which the ranks see whether one of them was told to stop: looking makes them wait.
LOOK_EVERY = 16


def fit(
    model: CondenseNet,
    data: PreparedData,
    augment: AugmentConfig,
    config: TrainConfig,
    *,
    checkpoints: Path | None = None,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] | None = None,
) -> Iterator[EpochResult]:
    """Train ``model`` in place and yield one result an epoch; all that a resumed training already had come first.

    With an initialised process group every rank calls this and consumes it alike. ``checkpoints`` is a folder for
    this training alone; what stands there is resumed. ``stop`` is asked after every step, in each rank that has one,
    so it should be cheap: once it says yes, all ranks raise ``TrainingPaused`` after the same step, which is saved.
    Raises ``ValueError`` when the folder is of another training (other parameters, data or code), and
    ``TrainingStopped`` when the loss is no longer finite or the disk is full.
    """
    trainer = Trainer(model, data, augment, config, checkpoints, torch.device(device), stop)
    trainer.resume()
    yield from list(trainer.history)
    while len(trainer.history) < config.epochs:
        started = time.monotonic() - trainer.seconds
        try:
            if trainer.step < (len(trainer.history) + 1) * trainer.steps_per_epoch:  # else the evaluation alone is left
                trainer.take_steps(started)
            if trainer.progress == 1:
                trainer.condense()  # a drop that is due at the very end has no step after it
            trainer.finish_epoch(started)
        except Interrupted:
            trainer.save(seconds=time.monotonic() - started)
            raise TrainingPaused(trainer.step, trainer.steps_per_epoch * config.epochs) from None
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
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.model, self.augment, self.config, self.device = on_device(model, device), augment, config, device
        self.forward = model if config.compile == "none" else torch.compile(model, mode=config.compile)
        self.replay = Replay(records=device.type == "cuda") if config.cuda_graph else None
        self.checkpoints, self.stop = checkpoints, stop
        data.manifest.check_model(model.config)
        self.train_split = place(data.split("train"), device, augment=augment)
        self.evaluation_split = place(data.evaluation_split, device)
        self.recipe = recipe(model.config, config, augment, data.manifest.fingerprint)
        self.steps_per_epoch = steps_per_epoch(self.train_split, config.batch_size)
        self.optimizer = NesterovSGD(model.parameters(), momentum=config.momentum, weight_decay=config.weight_decay)
        self.norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        running = [value for norm in self.norms for value in (norm.running_mean, norm.running_var)]
        self.statistics = [value for value in running if value is not None]
        self.step = 0
        self.condensed_to = -1  # at least; so that a step need not ask all layers
        self.learning_rate = config.learning_rate
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # of this epoch's steps: loss, error
        self.first_bad_step = torch.full((), -1, device=device)
        self.wish = torch.zeros(1, device=device)  # to stop; averaged with the gradients, so that all ranks see it
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
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            start_step=self.step % self.steps_per_epoch,
        )

    def condense(self) -> None:
        """Drop what the present progress asks for; all ranks must drop the same."""
        model, config = self.model, self.config
        due = condensing_stage(self.progress, model.num_condensing_stages, config.condensing_share)
        if due <= self.condensed_to:
            return
        self.condensed_to = due
        if due <= model.condensing_stage:
            return
        model.condense_to(due)
        distributed.check_same(
            [layer.group_mask for layer in model.learned_layers()], f"masks of condensing stage {due}"
        )
        for layer in model.learned_layers():
            self.optimizer.forget(layer.full_weight, layer.mask)
        if self.replay is not None:
            self.replay.forget()

    def take_steps(self, started: float) -> None:
        """What is left of this epoch, with its checkpoints; raises ``Interrupted`` on all ranks after the same step."""
        for images, labels in self.batches():
            self.condense()
            self.train_step(images, labels)
            if self._told_to_stop():
                raise Interrupted
            if self.step % self.config.checkpoint_every_steps == 0 and self.step % self.steps_per_epoch:
                self.save(seconds=time.monotonic() - started)

    def _told_to_stop(self) -> bool:
        told = self.stop is not None and self.stop()
        if distributed.world_size() == 1:
            return told
        agreed = (self.device.type == "cpu" or self.step % LOOK_EVERY == 0) and bool(self.wish > 0)
        if told:
            self.wish.fill_(1)  # the others hear of it with the next step
        return agreed

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        config = self.config
        images, labels = to_device(self.device, images, labels)
        if self.model.config.dropout > 0:
            torch.manual_seed(_dropout_seed(config.seed, self.step, distributed.rank()))
        self.learning_rate = cosine_learning_rate(config.learning_rate, self.progress)
        figures = (
            self._gradients(images, labels) if self.replay is None else self.replay(self._gradients, images, labels)
        )
        distributed.average_([*self.optimizer.gradients, *self.statistics, figures, self.wish])
        self.optimizer.step(self.learning_rate)
        self._add(figures)
        self.step += 1

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward and backward pass: the optimizer's gradients anew; returns (loss, error) of this rank's images."""
        config, model = self.config, self.model
        self.optimizer.zero_grad()  # before the forward pass: graphs of torch.compile take this memory back with it
        counting = nullcontext() if self.device.type == "cpu" else counted_together(self.norms)
        with counting, autocast(self.device, config.precision):
            logits = self.forward(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        objective = loss
        if config.group_lasso_weight > 0 and not model.is_condensed:
            objective = loss + config.group_lasso_weight * group_lasso(model)
        objective.backward()
        error = (logits.argmax(dim=1) != labels).float().mean()
        return torch.stack([loss.detach(), error])

    def _add(self, figures: Tensor) -> None:
        """Sum on the device: reading a value here would make every step wait for a GPU."""
        self.sums += figures
        bad = ~figures.isfinite().all() & (self.first_bad_step < 0)
        self.first_bad_step.masked_fill_(bad, self.step)

    def finish_epoch(self, started: float) -> None:
        """Evaluate, add the epoch's row to the history and save; the step count stands at the next epoch's start."""
        model, config = self.model, self.config
        batch_size = evaluation_batch_size(config.batch_size, self.evaluation_split.manifest.image_size, self.device)
        validation_loss, validation_error_pct = evaluate(
            model, self.evaluation_split, batch_size, self.device, precision=config.precision, stop=self.stop
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
        state.resume(self)

    def save(self, seconds: float) -> None:
        """Write a checkpoint, after checking that it is worth one. Rank 0 writes; the others go on."""
        state.save(self, seconds)


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step and rank, so that no random state needs saving."""
    return int.from_bytes(hashlib.sha256(f"dropout {seed} {step} {rank}".encode()).digest()[:7])
