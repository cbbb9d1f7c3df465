"""How far a training is: its history, what ends it early, and its state, to a checkpoint and back."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from condensenet.files import is_refusal
from condensenet.models import kernels
from condensenet.training import checkpoint, distributed
from condensenet.training.recipe import differences

if TYPE_CHECKING:
    from condensenet.training import Trainer

log = logging.getLogger(__name__)


class TrainingStopped(Exception):
    """Training cannot go on; its message is one line. The last good checkpoint is kept."""


class TrainingPaused(Exception):
    """``stop`` asked for it. All ``step`` steps so far are in a checkpoint, if there is a folder for it."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"paused after step {step} of {steps}")
        self.step = step


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One row of the history. Losses are mean cross-entropies; ``group_lasso`` is unweighted, at the epoch's end."""

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


def save(trainer: Trainer, seconds: float) -> None:
    """Write a checkpoint, after checking that it is worth one. Rank 0 writes; the others go on.

    Raises ``TrainingStopped`` when the state is not finite or the disk is full.
    """
    check_finite(trainer)
    if trainer.checkpoints is None or distributed.rank() != 0:
        return
    content = {
        "recipe": trainer.recipe,
        "made_with": made_with(trainer),
        "step": trainer.step,
        "seconds": seconds,
        "learning_rate": trainer.learning_rate,
        "sums": trainer.sums,
        "history": [asdict(row) for row in trainer.history],
        "model": trainer.model.state_dict(),
        "velocities": trainer.optimizer.velocities,
    }
    try:
        checkpoint.save(trainer.checkpoints, trainer.step, content)
    except OSError as error:
        if not is_refusal(error):
            raise
        raise TrainingStopped(
            f"the checkpoint of step {trainer.step} cannot be written to {trainer.checkpoints}: {error.strerror}; "
            "those before it are kept"
        ) from error


def resume(trainer: Trainer) -> None:
    """Take up the newest whole checkpoint, which rank 0 reads, or start with the weights of rank 0.

    Raises ``ValueError`` when it is of a training with another recipe.
    """
    found = None
    if trainer.checkpoints is not None and distributed.rank() == 0:
        found = checkpoint.load_newest(trainer.checkpoints)
    saved = distributed.from_rank_0(found)
    if saved is None:
        distributed.broadcast_(trainer.model.state_dict().values())
        return
    if different := differences(trainer.recipe, saved.get("recipe", {})):
        raise ValueError(f"{trainer.checkpoints} holds a training with other parameters, data or code: {different}")
    if different := differences(made_with(trainer), saved["made_with"]):
        log.warning("the weights will not be those of an uninterrupted training to the bit: %s", different)
    trainer.model.load_state_dict(saved["model"])
    for velocity, value in zip(trainer.optimizer.velocities, saved["velocities"], strict=True):
        velocity.copy_(value)
    trainer.step, trainer.seconds = saved["step"], saved["seconds"]
    trainer.learning_rate = saved["learning_rate"]
    trainer.sums.copy_(saved["sums"])
    trainer.history = [EpochResult(**row) for row in saved["history"]]
    log.info("resumed after step %d (epoch %d)", trainer.step, trainer.epoch + 1)


def made_with(trainer: Trainer) -> dict[str, Any]:
    """What may change between the runs of one training, but not without changing bits."""
    return {
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "device": trainer.device.type,
        "torch": str(torch.__version__),
        "kernels": trainer.device.type == "cpu" and kernels.available(),
    }


def check_finite(trainer: Trainer) -> None:
    """Raise ``TrainingStopped`` on every rank alike; it names the first bad step."""
    state = [*trainer.model.parameters(), *trainer.statistics, *trainer.optimizer.velocities]
    finite = torch.cat([tensor.detach().reshape(-1) for tensor in state]).isfinite().all()
    step = int(torch.where((trainer.first_bad_step < 0) & ~finite, trainer.step, trainer.first_bad_step))
    if step >= 0:
        raise TrainingStopped(
            f"the loss is not finite at step {step} (epoch {step // trainer.steps_per_epoch + 1}) "
            f"with learning_rate={trainer.config.learning_rate}"
        )
