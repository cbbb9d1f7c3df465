"""The loss and error of a model on a set of images, and how models and batches reach their device."""

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

GPU_BATCH_PIXELS = 2**20


class StopRequested(Exception):
    """``stop`` returned true, in this process or in another one of the same training."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    batch_size: int,
    device: torch.device | str = "cpu",
    *,
    precision: str = "fp32",
    stop: Callable[[], bool] | None = None,
    threads: int | None = None,
) -> tuple[float, float]:
    """(mean cross-entropy, top-1 error in %) over all images of ``split``, which the ranks share between them.

    ``stop`` is called after every batch; if it returns true on any rank, all ranks raise ``StopRequested``. Images are
    decoded in ``threads`` threads (default: this rank's share of the machine's cores).
    """
    was_training = model.training
    model.eval()
    totals = torch.zeros(4, dtype=torch.float64, device=device)  # loss, errors, images, ranks asked to stop
    rank, world_size = distributed.rank(), distributed.world_size()
    for images, labels in evaluation_batches(split, batch_size, rank, world_size, threads):
        images, labels = to_device(device, images, labels)
        with autocast(device, precision):
            logits = model(images).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        errors = (logits.argmax(dim=1) != labels).sum()
        totals[:3] += torch.stack([loss.double(), errors.double(), torch.full_like(totals[0], len(labels))])
        if stop is not None and stop():
            totals[3] = 1
            break
    distributed.sum_(totals)
    model.train(was_training)
    total_loss, total_errors, num_images, stop_requests = totals.tolist()
    if stop_requests:
        raise StopRequested
    return total_loss / num_images, 100 * total_errors / num_images


def evaluation_batch_size(train_batch_size: int, image_size: int, device: torch.device, parts: int = 1) -> int:
    """Images per evaluation batch of a rank. On a CPU it is the training batch size, so histories stay the same.

    A GPU gets as many images as it trains on at once, of ``parts`` of a batch (ranks times accumulation). Small
    batches, such as 64 images of 32x32, would wait for kernel launches, so they get as many pixels as 1,024 such
    images; without gradients there is enough memory.
    """
    if device.type == "cpu":
        return train_batch_size
    return max(train_batch_size // parts, GPU_BATCH_PIXELS // image_size**2)


def model_to_device(model: Module, device: torch.device) -> Module:
    """Move ``model``; on a GPU also to channels last, as the images are, so that no pass has to convert its weights."""
    model.to(device)
    return model if device.type == "cpu" else model.to(memory_format=torch.channels_last)


def to_device(device: torch.device | str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Move a batch, images channels last: on a CPU, 1/2 of a step's time for the digits, 2/3 for CondenseNet-86."""
    images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
    return images, labels.to(device, non_blocking=True)


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")
