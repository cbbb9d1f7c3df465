"""Training: ``fit`` yields a result per epoch, condenses along the way and resumes from its checkpoints."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condensenet.training.history import EpochResult, TrainingFailed, TrainingPaused
    from condensenet.training.initial import check_start, start_from
    from condensenet.training.loop import Trainer, fit, kept_pct
    from condensenet.training.optimizer import cosine_learning_rate

_MODULES = {  # imported on first use: ``fingerprint`` and the exceptions must not wait for torch
    "EpochResult": "history",
    "Trainer": "loop",
    "TrainingPaused": "history",
    "TrainingFailed": "history",
    "check_start": "initial",
    "cosine_learning_rate": "optimizer",
    "fit": "loop",
    "kept_pct": "loop",
    "start_from": "initial",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
