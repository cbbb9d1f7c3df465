"""How good a model is on a set of images, and how a batch reaches its device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condensenet.data import evaluation_batches
from condensenet.data.resident import Split
from condensenet.training import distributed

Module = TypeVar("Module", bound=nn.Module)

EVALUATION_PIXELS = 2**20  # of a GPU's batch


class Interrupted(Exception):
    """A ``stop`` that was asked said so, in this process or in another of the same training."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    batch_size: int,
    device: torch.device | str = "cpu",
    *,
    precision: str = "fp32",
    stop: Callable[[], bool] | None = None,
) -> tuple[float, float]:
    """(mean cross-entropy, top-1 error in %) over all images of ``split``, shared between the ranks.

    ``stop`` is asked after every batch; once it says yes on one rank, all raise ``Interrupted``.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, errors, images, ranks that stop
    for images, labels in evaluation_batches(split, batch_size, distributed.rank(), distributed.world_size()):
        images, labels = to_device(device, images, labels)
        with autocast(device, precision):
            logits = model(images).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        errors = (logits.argmax(dim=1) != labels).sum()
        sums[:3] += torch.stack([loss.double(), errors.double(), torch.full_like(sums[0], len(labels))])
        if stop is not None and stop():
            sums[3] = 1
            break
    distributed.sum_(sums)
    model.train(was_training)
    loss_sum, error_sum, images_seen, stopping = sums.tolist()
    if stopping:
        raise Interrupted
    return loss_sum / images_seen, 100 * error_sum / images_seen


def evaluation_batch_size(training: int, image_size: int, device: torch.device) -> int:
    """Images in an evaluation's batch: on a CPU as in training's, so that histories stay the same to the bit.

    A GPU waits for its work to be launched when a batch is small, as 64 images of 32x32 are: it gets 1,024 of them, or
    as many pixels. Without gradients there is memory enough.
    """
    return training if device.type == "cpu" else max(training, EVALUATION_PIXELS // image_size**2)


def on_device(model: Module, device: torch.device) -> Module:
    """``model``, moved there; on a GPU with its weights channels last as the images are, else each pass turns them."""
    model.to(device)
    return model if device.type == "cpu" else model.to(memory_format=torch.channels_last)


def to_device(device: torch.device | str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Channels last: measured at half the time of a step on a CPU for the digits, two thirds for CondenseNet-86."""
    images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
    return images, labels.to(device, non_blocking=True)


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")
