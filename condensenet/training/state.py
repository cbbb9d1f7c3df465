"""What a checkpoint holds beside the trainer's own state, and when it may be resumed.

A checkpoint is ``{"recipe", "environment", "trainer"}``. Under another recipe it is refused; in another environment it
is resumed with a warning, because the weights may differ in their last bits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condensenet.files import is_permanent_write_error
from condensenet.models import kernels
from condensenet.training import checkpoint, distributed
from condensenet.training.history import TrainingStopped
from condensenet.training.recipe import differences

log = logging.getLogger(__name__)


def save(folder: Path, recipe: dict[str, Any], device: torch.device, trainer: dict[str, Any]) -> None:
    """Write a checkpoint with the trainer's state; raises ``TrainingStopped`` if the disk is full or read-only."""
    content = {"recipe": recipe, "environment": environment(device), "trainer": trainer}
    try:
        checkpoint.save(folder, trainer["step"], content)
    except OSError as error:
        if not is_permanent_write_error(error):
            raise
        raise TrainingStopped(
            f"the checkpoint of step {trainer['step']} cannot be written to {folder}: {error.strerror}; "
            "earlier checkpoints are kept"
        ) from error


def load(folder: Path | None, recipe: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """The trainer's state from the newest intact checkpoint, which rank 0 reads for all ranks; None if there is none.

    Raises ``ValueError`` on every rank if the checkpoint was made under another recipe.
    """
    newest = checkpoint.load_newest(folder) if folder is not None and distributed.rank() == 0 else None
    saved = distributed.broadcast_object(newest)
    if saved is None:
        return None
    if different := differences(recipe, saved.get("recipe", {})):
        raise ValueError(f"{folder} holds a training with other parameters, data or code: {different}")
    if different := differences(environment(device), saved["environment"]):
        log.warning("the weights may differ from those of an uninterrupted training: %s", different)
    return saved["trainer"]


def environment(device: torch.device) -> dict[str, Any]:
    """What may change between two runs of one training, but not without changing the last bits of its weights."""
    return {
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "torch": str(torch.__version__),
        "kernels": device.type == "cpu" and kernels.available(),
    }


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether every value of every tensor is finite: a boolean scalar on their device."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).isfinite().all()
