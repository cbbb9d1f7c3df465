"""An exponential moving average of a model's weights, which is what is evaluated and kept.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the rising decay of the
first steps is that of TensorFlow's ``ExponentialMovingAverage``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """After step t (from 1), average = d * average + (1 - d) * value with d = min(decay, (1 + t) / (10 + t)).

    Parameters and batch norm statistics are averaged; masks and counts are those of the model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """The model keeps its tensors from here on: they may only be changed in place."""
        self.model, self.decay = model, decay
        own = model.state_dict()
        self.values = {name: value.clone() for name, value in own.items()}
        averaged = [name for name, value in own.items() if value.is_floating_point()]
        self._averaged = [self.values[name] for name in averaged], [own[name] for name in averaged]
        self._copied = [(self.values[name], own[name]) for name in own.keys() - averaged]

    def update(self, step: int) -> None:
        """Take the model's state after ``step`` steps into the average: all tensors at once, as a GPU has hundreds."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(*self._averaged, step)

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
        _fill(self.model, self.state_dict())

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        for kept, value in self._copied:  # once where they are needed, instead of in every step
            kept.copy_(value)
        return self.values

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(state_dict[name])


@torch.no_grad()
def _fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """In place, so that a captured CUDA graph stays valid."""
    for name, value in model.state_dict().items():
        value.copy_(values[name])
