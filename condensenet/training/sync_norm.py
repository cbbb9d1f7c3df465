"""Batch norm over the images of all ranks, by ``torch.nn.SyncBatchNorm``, for training alone.

Parameters and statistics are the same tensors, under the same names, before, during and after.
"""

from __future__ import annotations

import torch
from torch import nn

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def synchronise_norms(model: nn.Module, device: torch.device) -> None:
    """Replace the batch norms of ``model``; raises ``ValueError`` on a CPU, for which torch has no such operation."""
    if device.type == "cpu":
        raise ValueError("sync_batch_norm=true is not allowed on a CPU: torch.nn.SyncBatchNorm works on GPUs only")
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


def plain_norms(model: nn.Module) -> None:
    """The inverse of ``synchronise_norms``."""
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.SyncBatchNorm):
                setattr(parent, name, _plain(norm))


def _plain(norm: nn.SyncBatchNorm) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, device="meta")
    plain.weight, plain.bias = norm.weight, norm.bias
    plain.running_mean, plain.running_var = norm.running_mean, norm.running_var
    plain.num_batches_tracked = norm.num_batches_tracked
    return plain.train(norm.training)
