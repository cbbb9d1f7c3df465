"""What a training reports: a result per epoch, and the exceptions that end it early. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One row of the history. Losses are mean cross-entropies; ``group_lasso`` is unweighted."""

    epoch: int  # from 1
    condensing_stage: int  # at the end of the epoch
    learning_rate: float  # of the last step
    train_loss: float  # mean over the epoch, without the group lasso
    group_lasso: float  # at the end of the epoch
    train_error_pct: float
    validation_loss: float
    validation_error_pct: float
    kept_pct: float  # density: the share of all learned layers' weights that is kept
    seconds: float  # including the evaluation


class TrainingFailed(Exception):
    """Training cannot continue, for the reason given in one line. The last good checkpoint is kept."""


class TrainingPaused(Exception):
    """Training ended at the request of ``stop``. If it has checkpoints, one holds all ``step`` steps done so far."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"paused after step {step} of {steps}")
        self.step = step
