"""Mixup and CutMix of a batch, by torchvision, as a function of (seed, step, rank).

Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix", 2019.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from condensenet.config import TrainConfig


def mix(
    images: Tensor, labels: Tensor, config: TrainConfig, classes: int, step: int, rank: int
) -> tuple[Tensor, Tensor]:
    """Mix pairs of images (N, C, H, W); labels (N,) become probabilities (N, ``classes``).

    Where both are on, a fair coin chooses one of them for the whole batch.
    """
    from torchvision.transforms import v2

    on = [(kind, alpha) for kind, alpha in ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix)) if alpha > 0]
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global state of the CPU
        torch.manual_seed(mixing_seed(config.seed, step, rank))
        kind, alpha = on[int(torch.randint(len(on), ()))]
        mixed, probabilities = kind(alpha=alpha, num_classes=classes)(images, labels)
    return mixed, probabilities


def mixing_seed(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.sha256(f"mixing {seed} {step} {rank}".encode()).digest()[:7])
