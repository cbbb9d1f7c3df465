"""The training loop: ``fit`` is a generator over epochs; it yields results and the caller logs them.

Training is exact. The same configuration, data and number of processes give the same weights to the bit, on the same
kind of CPU with the same number of threads, even if the training was killed and resumed in the middle of an epoch.
Nothing depends on hidden state: batches are functions of (seed, epoch, index), dropout of (seed, step, rank), the
schedule of the step. After each step all ranks hold equal weights, batch norm statistics and running totals, so rank
0's checkpoint serves them all.

Paper: section 4.1, and the recipe in section 5.1.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from condensenet.config import AugmentConfig, TrainConfig
from condensenet.data import ImageSplit, PreparedData, steps_per_epoch, train_batches
from condensenet.data.augment import crop_size
from condensenet.data.gpu_decoding import GpuDecodedSplit
from condensenet.data.resident import Split, split_for_device
from condensenet.files import Storage, as_storage
from condensenet.models.condensenet import CondenseNet, group_lasso
from condensenet.models.condensing import condensing_stage
from condensenet.training import checkpoint, distributed
from condensenet.training.averaging import WeightAverage
from condensenet.training.checkpoint_schema import check_trainer
from condensenet.training.cuda_graph import CudaGraphRunner, batches_counted_together
from condensenet.training.evaluation import (
    StopRequested,
    autocast,
    evaluate,
    evaluation_batch_size,
    model_to_device,
    to_device,
)
from condensenet.training.fingerprint import fingerprint
from condensenet.training.finite import FiniteWatch
from condensenet.training.history import EpochResult, TrainingFailed, TrainingPaused
from condensenet.training.mixing import mix
from condensenet.training.optimizer import NesterovSGD, cosine_learning_rate, scaled_learning_rate
from condensenet.training.stopping import StopAgreement
from condensenet.training.sync_norm import NORMS, plain_norms, synchronise_norms

log = logging.getLogger(__name__)


def fit(
    model: CondenseNet,
    data: PreparedData,
    augment: AugmentConfig,
    config: TrainConfig,
    *,
    checkpoints: str | Path | Storage | None = None,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] | None = None,
    loader_threads: int | None = None,
) -> Iterator[EpochResult]:
    """Train ``model`` in place and yield one result per epoch, first those of the epochs before a resume.

    The model takes the preprocessing of ``data``. Parameters without ``requires_grad`` stay as they are.
    With an initialised process group, every rank must call this and consume all results. ``checkpoints`` is a folder,
    or another storage, for this training alone; if it holds a checkpoint, training resumes from it. ``stop`` is
    called after every step on every rank that has one, so it should be cheap; once it returns true, all ranks save
    and raise ``TrainingPaused`` after the same step. Images are decoded in ``loader_threads`` threads (default: this
    rank's share of the machine's cores). Raises ``ValueError`` if the storage belongs to another training (other
    parameters, data or code) or the model is a grouped form, and ``TrainingFailed`` if the loss is no longer finite or
    the disk is full.
    """
    trainer = Trainer(model, data, augment, config, checkpoints, torch.device(device), stop, loader_threads)
    trainer.resume()
    trainer.finish()
    yield from list(trainer.history)
    while len(trainer.history) < config.epochs:
        try:
            trainer.run_epoch()
        except StopRequested:
            trainer.save()
            raise TrainingPaused(trainer.step, trainer.num_steps) from None
        trainer.finish()
        yield trainer.history[-1]


class Trainer:
    """The state of one training and its steps. ``fit`` drives it; a benchmark may run single steps."""

    def __init__(
        self,
        model: CondenseNet,
        data: PreparedData,
        augment: AugmentConfig,
        config: TrainConfig,
        checkpoints: str | Path | Storage | None,
        device: torch.device,
        stop: Callable[[], bool] | None = None,
        loader_threads: int | None = None,
    ) -> None:
        data.manifest.check_model(model.config)
        if model.form != "training":
            raise ValueError("a grouped form cannot be trained: train the model that it was converted from")
        model.preprocessing = data.manifest.preprocessing
        self.augment, self.config, self.device = augment, config, device
        self.checkpoints = None if checkpoints is None else as_storage(checkpoints)
        self.loader_threads = loader_threads
        self.stop = StopAgreement(stop, device)
        self.fingerprint = fingerprint(model.config, config, augment, data.manifest.fingerprint)
        if config.sync_batch_norm:
            synchronise_norms(model, device)
        self.model = model_to_device(model, device)
        self.forward = model if config.compile == "none" else torch.compile(model, mode=config.compile)
        self.graph_runner = CudaGraphRunner(enabled=device.type == "cuda") if config.cuda_graph else None
        self.train_split = training_split(data.split("train"), device, augment, config)
        self.evaluation_split = split_for_device(data.evaluation_split, device)
        self.steps_per_epoch = steps_per_epoch(self.train_split, config.batch_size)
        self.num_steps = self.steps_per_epoch * config.epochs
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = NesterovSGD(trainable, momentum=config.momentum, weight_decay=config.weight_decay)
        self.average = WeightAverage(model, config.ema_decay) if config.ema_decay > 0 else None
        self.norms = [module for module in model.modules() if isinstance(module, NORMS)]
        statistics = [value for norm in self.norms for value in (norm.running_mean, norm.running_var)]
        self.running_statistics = [value for value in statistics if value is not None]
        self.step = 0
        self.history: list[EpochResult] = []
        self.learning_rate = config.learning_rate
        self.epoch_totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss and error, summed over steps
        self.finite = FiniteWatch(device)
        self.reached_stage = -1  # a lower bound of the condensing stage, which spares each step a look at all layers
        self.elapsed_s = 0.0  # of the current epoch, before ``timed_since``
        self.timed_since = time.monotonic()

    def run_epoch(self) -> None:
        """Run the current epoch's remaining steps, then its evaluation. Raises ``StopRequested`` on all ranks alike."""
        self.timed_since = time.monotonic()
        if self.epoch == len(self.history):  # otherwise only the evaluation is left
            for images, labels in self.batches():
                self.condense()
                self.train_step(images, labels)
                if self.stop.reached(self.step):
                    raise StopRequested
                if self.step % self.config.checkpoint_every_steps == 0 and self.step % self.steps_per_epoch:
                    self.save()
        if self.progress == 1:
            self.condense()  # no step follows a drop that is due at the very end
        self.finish_epoch()

    def condense(self) -> None:
        """Drop the connections that are due; all ranks must drop the same."""
        model, config = self.model, self.config
        due = condensing_stage(
            self.progress, model.num_condensing_stages, config.condensing_share, schedule=config.condensing
        )
        if due <= self.reached_stage:
            return
        self.reached_stage = due
        if due <= model.condensing_stage:
            return
        if config.condensing == "random":
            model.condense_at_random(config.seed)
        else:
            model.condense_to(due)
        masks = [layer.group_mask for layer in model.learned_layers()]
        distributed.check_same(masks, f"masks of condensing stage {due}")
        for layer in model.learned_layers():
            self.optimizer.apply_mask(layer.full_weight, layer.mask)
            if self.average is not None:
                self.average.apply_mask(layer.full_weight, layer.mask)
        if self.graph_runner is not None:
            self.graph_runner.reset()

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One SGD step on this rank's part of a batch: images (N, C, H, W) and labels (N,)."""
        config = self.config
        images, labels = to_device(self.device, images, labels)
        if self.model.config.dropout > 0:
            torch.manual_seed(_dropout_seed(config.seed, self.step, distributed.rank()))
        if config.mixup > 0 or config.cutmix > 0:
            classes = self.model.config.num_classes
            images, labels = mix(images, labels, config, classes, self.step, distributed.rank())
        self.learning_rate = cosine_learning_rate(
            scaled_learning_rate(config), self.progress, config.warmup_epochs / config.epochs
        )
        if self.graph_runner is None:
            loss_and_error = self.compute_gradients(images, labels)
        else:
            loss_and_error = self.graph_runner(self.compute_gradients, images, labels)
        distributed.average_([*self.optimizer.gradients, *self.running_statistics, loss_and_error, self.stop.flag])
        self.optimizer.step(self.learning_rate)
        self.epoch_totals += loss_and_error  # on the device: to read it would make each step wait for a GPU
        self.finite.note(self.step, loss_and_error)
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)

    def compute_gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward and backward pass: sets new gradients and returns (loss, error) of this rank's images.

        Labels are classes (N,) or probabilities (N, classes). Raises ``ValueError`` if the images cannot be divided
        into ``gradient_accumulation`` equal parts.
        """
        parts = self.config.gradient_accumulation
        self.optimizer.zero_grad()  # before the forward pass: graphs of torch.compile reuse this memory
        if parts == 1:
            return self.add_gradients(images, labels)
        if len(images) % parts:
            raise ValueError(
                f"gradient_accumulation={parts} is not allowed: it must divide a worker's {len(images)} images"
            )
        results = [
            self.add_gradients(*part, share=1 / parts)
            for part in zip(images.chunk(parts), labels.chunk(parts), strict=True)
        ]
        return torch.stack(results).mean(dim=0)

    def add_gradients(self, images: Tensor, labels: Tensor, share: float = 1.0) -> Tensor:
        """Add the gradients of these images, ``share`` of all, to those that are there; returns (loss, error)."""
        config, model = self.config, self.model
        counting = nullcontext() if self.device.type == "cpu" else batches_counted_together(self.norms)
        with counting, autocast(self.device, config.precision):
            logits = self.forward(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        objective = loss
        if config.group_lasso_weight > 0 and not model.is_condensed:
            objective = loss + config.group_lasso_weight * group_lasso(model)
        (objective if share == 1 else share * objective).backward()
        classes = labels if labels.dim() == 1 else labels.argmax(dim=1)
        error = (logits.argmax(dim=1) != classes).float().mean()
        return torch.stack([loss.detach(), error])

    def finish_epoch(self) -> None:
        """Evaluate, add the epoch to the history and save."""
        model, config = self.model, self.config
        image_size = self.evaluation_split.manifest.image_size
        parts = distributed.world_size() * config.gradient_accumulation
        batch_size = evaluation_batch_size(config.batch_size, image_size, self.device, parts)
        with nullcontext() if self.average is None else self.average.in_use():
            validation_loss, validation_error_pct = evaluate(
                model,
                self.evaluation_split,
                batch_size,
                self.device,
                precision=config.precision,
                stop=self.stop.ask,
                threads=self.loader_threads,
            )
        train_loss, train_error = (self.epoch_totals / self.steps_per_epoch).tolist()
        result = EpochResult(
            epoch=self.epoch,  # ``step`` is that of the next epoch's start, so this counts from 1
            condensing_stage=model.condensing_stage,
            learning_rate=self.learning_rate,
            train_loss=train_loss,
            group_lasso=group_lasso(model).item(),
            train_error_pct=100 * train_error,
            validation_loss=validation_loss,
            validation_error_pct=validation_error_pct,
            kept_pct=kept_pct(model),
            seconds=self._epoch_s(),
        )
        self.history.append(result)
        self.epoch_totals.zero_()
        self.elapsed_s, self.timed_since = 0.0, time.monotonic()
        self.save()

    def finish(self) -> None:
        """After the last epoch the model gets the averaged weights, if there are any; before, nothing happens."""
        if len(self.history) < self.config.epochs:
            return
        if self.average is not None:
            self.average.keep()
        if self.config.sync_batch_norm:
            plain_norms(self.model)

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """The share of all steps that is done, in [0, 1]."""
        return self.step / self.num_steps

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of the remaining batches of the epoch."""
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
            threads=self.loader_threads,
            size=self.crop_size,
        )

    @property
    def crop_size(self) -> int:
        """The height and width of this epoch's training images."""
        return crop_size(self.augment, self.train_split.manifest.image_size, self.epoch, self.config.epochs)

    def state_dict(self) -> dict[str, Any]:
        """All that changes during training: plain data and tensors, without copies."""
        return {
            "step": self.step,
            "elapsed_s": self._epoch_s(),
            "learning_rate": self.learning_rate,
            "epoch_totals": self.epoch_totals,
            "history": [asdict(result) for result in self.history],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **({} if self.average is None else {"average": self.average.state_dict()}),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a trainer of the same model, data and configuration, else ``ValueError``."""
        check_trainer(state_dict, self.state_dict(), self.model, self.steps_per_epoch, self.config.epochs)
        self.step, self.elapsed_s = state_dict["step"], state_dict["elapsed_s"]
        self.learning_rate = state_dict["learning_rate"]
        self.epoch_totals.copy_(state_dict["epoch_totals"])
        self.history = [EpochResult(**result) for result in state_dict["history"]]
        self.model.load_state_dict(state_dict["model"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state_dict["average"])
        self.timed_since, self.reached_stage = time.monotonic(), -1
        self.finite.reset()
        self.stop.reset()
        if self.graph_runner is not None:
            self.graph_runner.reset()

    def resume(self) -> None:
        """Continue from the newest intact checkpoint; if there is none, start from rank 0's weights."""
        saved = checkpoint.load(self.checkpoints, self.fingerprint, self.device)
        if saved is None:
            distributed.broadcast_(self.model.state_dict().values())
            if self.average is not None:
                self.average.load_state_dict(self.model.state_dict())
            return
        try:
            self.load_state_dict(saved)
        except ValueError as error:
            raise ValueError(f"the newest checkpoint in {self.checkpoints} is not of this training: {error}") from None
        log.info("resumed after step %d (epoch %d)", self.step, self.epoch + 1)

    def save(self) -> None:
        """Write a checkpoint, on rank 0 alone. Raises ``TrainingFailed`` if the state is not finite, on all ranks."""
        self._check_finite()
        if self.checkpoints is not None and distributed.rank() == 0:
            checkpoint.save(self.checkpoints, self.fingerprint, self.device, self.state_dict())

    def _check_finite(self) -> None:
        tensors = [*self.model.parameters(), *self.running_statistics, *self.optimizer.velocities]
        step = self.finite.first_bad_step(self.step, tensors)
        if step >= 0:
            raise TrainingFailed(
                f"the loss is not finite at step {step} (epoch {step // self.steps_per_epoch + 1}) "
                f"with learning_rate={self.config.learning_rate}"
            )

    def _epoch_s(self) -> float:
        return self.elapsed_s + time.monotonic() - self.timed_since


def kept_pct(model: CondenseNet) -> float:
    """The density of all learned layers together: the share of their weights that is kept, in %."""
    layers = list(model.learned_layers())
    kept = sum(layer.full_weight.numel() * (1 - layer.num_dropped / layer.in_channels) for layer in layers)
    return 100 * kept / sum(layer.full_weight.numel() for layer in layers)


def training_split(split: ImageSplit, device: torch.device, augment: AugmentConfig, config: TrainConfig) -> Split:
    if config.gpu_decoding:
        return GpuDecodedSplit(split, device, augment)
    return split_for_device(split, device, augment=augment)


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """A different seed for each step and rank, so no random state needs to be saved."""
    return int.from_bytes(hashlib.sha256(f"dropout {seed} {step} {rank}".encode()).digest()[:7])
