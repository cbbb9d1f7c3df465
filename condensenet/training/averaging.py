"""An exponential moving average of a model's weights, which is what is evaluated and kept.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the rising decay of the
first steps is that of TensorFlow's ``ExponentialMovingAverage``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """After step t (from 1), average = d * average + (1 - d) * value with d = min(decay, (1 + t) / (10 + t)).

    Parameters and batch norm statistics are averaged; masks and counts are those of the model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the model's state after ``step`` steps into the average."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, weight)
        self.take_masks()

    @torch.no_grad()
    def take_masks(self) -> None:
        """Take the model's masks and counts, which are not averaged."""
        for name, value in self.model.state_dict().items():
            if not value.is_floating_point():
                self.values[name].copy_(value)

    @torch.no_grad()
    def apply_mask(self, parameter: Tensor, mask: Tensor) -> None:
        """Zero the dropped weights of one of the model's parameters."""
        name = next(name for name, value in self.model.named_parameters() if value is parameter)
        self.values[name].mul_(mask)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model holds the average; afterwards its own state again."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.keep()
        try:
            yield
        finally:
            _fill(self.model, own)

    def keep(self) -> None:
        """Give the average to the model."""
        _fill(self.model, self.values)

    def state_dict(self) -> dict[str, Tensor]:
        return self.values

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(state_dict[name])


@torch.no_grad()
def _fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """In place, so that a captured CUDA graph stays valid."""
    for name, value in model.state_dict().items():
        value.copy_(values[name])
