"""SGD with Nesterov momentum and weight decay, with one fused call for all parameters; the learning rate schedule.

The arithmetic is torch's own (``torch.optim.sgd.sgd``). We do without the class ``torch.optim.SGD`` because creating
one imports torch's compiler, which takes seconds in every training process, and because condensing masks the momentum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from condensenet.config import TrainConfig


class NesterovSGD:
    def __init__(self, parameters: Iterable[nn.Parameter], *, momentum: float, weight_decay: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.momentum, self.weight_decay = momentum, weight_decay

    @property
    def gradients(self) -> list[Tensor]:
        """Those of the last backward pass, which must have reached every parameter, in the order of the parameters."""
        return [parameter.grad for parameter in self.parameters]  # type: ignore[misc]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        sgd(
            self.parameters,
            self.gradients,
            self.velocities,  # type: ignore[arg-type]
            fused=True,
            lr=learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            dampening=0.0,
            nesterov=self.momentum > 0,
            maximize=False,
        )

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def apply_mask(self, parameter: Tensor, mask: Tensor) -> None:
        """Zero the dropped weights and their momentum. Without a gradient, no later step changes them."""
        parameter.mul_(mask)
        for trained, velocity in zip(self.parameters, self.velocities, strict=True):
            if trained is parameter:  # a frozen one has no momentum
                velocity.mul_(mask)

    def state_dict(self) -> dict[str, Any]:
        """The momentum of every parameter. The learning rate is an argument of ``step``."""
        return {"velocities": self.velocities}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for velocity, saved in zip(self.velocities, state_dict["velocities"], strict=True):
            velocity.copy_(saved)


def scaled_learning_rate(config: TrainConfig) -> float:
    """The rate for the batch size in use, in proportion to the one it was given for (Goyal et al., 2017)."""
    base = config.learning_rate_batch_size
    return config.learning_rate if base == 0 else config.learning_rate * config.batch_size / base


def cosine_learning_rate(learning_rate: float, progress: float, warmup: float = 0.0) -> float:
    """A linear rise from 0 over the first ``warmup`` of training, then a half cosine down to 0 at progress 1.

    ``progress`` and ``warmup`` are shares of all steps; without warm-up it starts at ``learning_rate``.
    """
    if progress < warmup:
        return learning_rate * progress / warmup
    return learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
