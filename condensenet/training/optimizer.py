"""SGD with Nesterov momentum and weight decay, all parameters in one fused call.

The arithmetic is torch's own (``torch.optim.sgd.sgd``). ``torch.optim.SGD`` is left out because making one imports
torch's compiler, which takes seconds in every process that trains, and because momentum is ours to mask.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


class NesterovSGD:
    def __init__(self, parameters: Iterable[nn.Parameter], *, momentum: float, weight_decay: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.momentum, self.weight_decay = momentum, weight_decay

    @property
    def gradients(self) -> list[Tensor]:
        """Those of the last backward pass, in the order of the parameters; it must have reached all of them."""
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
    def forget(self, parameter: Tensor, mask: Tensor) -> None:
        """Zero what ``mask`` drops, momentum included: without gradient, decay and momentum leave it at zero."""
        parameter.mul_(mask)
        velocity = next(v for p, v in zip(self.parameters, self.velocities, strict=True) if p is parameter)
        velocity.mul_(mask)
