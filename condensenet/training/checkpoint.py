"""What a checkpoint holds and when it may be resumed; the trainer's own part is ``Trainer.state_dict``.

A checkpoint is ``{"fingerprint", "environment", "trainer"}``. It is refused if the fingerprint differs; in another
environment it is resumed with a warning, because the weights may differ in their last bits.
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from condensenet.files import Storage, is_permanent_write_error
from condensenet.models import kernels
from condensenet.training import checkpoint_files, distributed
from condensenet.training.fingerprint import differences
from condensenet.training.history import TrainingFailed

log = logging.getLogger(__name__)


def save(folder: Path | Storage, fingerprint: dict[str, Any], device: torch.device, trainer: dict[str, Any]) -> None:
    """Write a checkpoint with the trainer's state; raises ``TrainingFailed`` if the disk is full or read-only."""
    content = {"fingerprint": fingerprint, "environment": environment(device), "trainer": trainer}
    try:
        checkpoint_files.save(folder, trainer["step"], content)
    except OSError as error:
        if not is_permanent_write_error(error):
            raise
        raise TrainingFailed(
            f"the checkpoint of step {trainer['step']} cannot be written to {folder}: {error.strerror}; "
            "earlier checkpoints are kept"
        ) from error


def load(folder: Path | Storage | None, fingerprint: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """The trainer's state from the newest intact checkpoint, which rank 0 reads for all ranks; None if there is none.

    Raises ``ValueError``, in one line, on every rank if the checkpoint was made under another fingerprint.
    """
    newest = checkpoint_files.load_newest(folder) if folder is not None and distributed.rank() == 0 else None
    saved = distributed.broadcast_object(newest)
    if saved is None:
        return None
    for name in ("fingerprint", "environment", "trainer"):
        if not isinstance(saved.get(name), dict):
            raise ValueError(f"the newest checkpoint in {folder} is not of this training: {name} is missing")
    for name in ("fingerprint", "environment"):
        if not all(type(key) is str and _is_plain(value) for key, value in saved[name].items()):
            raise ValueError(f"the newest checkpoint in {folder} is not of this training: {name} is not plain data")
    if different := differences(fingerprint, saved["fingerprint"]):
        raise ValueError(f"{folder} holds a training with other parameters, data or code: {different}")
    if different := differences(environment(device), saved["environment"]):
        log.warning("the weights may differ from those of an uninterrupted training: %s", different)
    return saved["trainer"]


def _is_plain(value: object) -> bool:
    """Whether it is a value of a fingerprint, which can be compared and shown: a tensor, say, can be neither."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(each, str | int | float | None) for each in values)


def environment(device: torch.device) -> dict[str, Any]:
    """What may change between two runs of one training, but not without changing the last bits of its weights."""
    return {
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),  # decodes and augments images
        "kernel_lanes": kernels.lanes() if device.type == "cpu" else None,
    }
