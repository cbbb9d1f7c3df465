"""What the processes of one training exchange. Without an initialised process group, every function is a no-op.

Gradients are averaged as one flat vector, in the order of the parameters. A vector of fixed layout is summed in a fixed
order, so a resumed training adds up exactly as the uninterrupted one did, with any number of processes.
(DistributedDataParallel rearranges its buckets after the first step, and with them the order of summation for more than
two processes.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace each float32 tensor with its mean over all ranks, in a single collective."""
    if world_size() == 1:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    with torch.no_grad():
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [p.view_as(t) for t, p in zip(tensors, parts, strict=True)])


def sum_(tensor: Tensor) -> None:
    if world_size() > 1:
        dist.all_reduce(tensor)


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Overwrite every rank's tensors with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def broadcast_object(value: T) -> T:
    """Rank 0's ``value`` on every rank: tensors (on the CPU) and plain data."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def check_same(tensors: Iterable[Tensor], what: str) -> None:
    """Raise ``RuntimeError`` on every rank if any rank's tensors differ bitwise from those of rank 0."""
    if world_size() == 1:
        return
    hasher = hashlib.sha256()
    for tensor in tensors:
        hasher.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    own = torch.tensor(list(hasher.digest()), dtype=torch.uint8, device=device)
    digests = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(digests, own)
    different = [index for index, digest in enumerate(digests) if not torch.equal(digest, digests[0])]
    if different:
        raise RuntimeError(f"{what} of rank {different} differ from those of rank 0")
