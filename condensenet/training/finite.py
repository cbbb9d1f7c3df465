"""The watch for a loss or a state that is no longer finite, which costs no step a wait for the GPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class FiniteWatch:
    """Remembers, on the device, the first step whose values were not finite."""

    def __init__(self, device: torch.device) -> None:
        self.first_bad = torch.full((), -1, device=device)  # -1 if there is none

    def note(self, step: int, values: Tensor) -> None:
        """Take the values of one step."""
        bad = ~values.isfinite().all() & (self.first_bad < 0)
        self.first_bad.masked_fill_(bad, step)

    def first_bad_step(self, step: int, state: Iterable[Tensor]) -> int:
        """The first step whose values were not finite, else ``step`` if ``state`` is not finite now, else -1.

        The only call that waits for the device.
        """
        became_bad = (self.first_bad < 0) & ~_all_finite(state)
        return int(torch.where(became_bad, step, self.first_bad))

    def reset(self) -> None:
        self.first_bad.fill_(-1)


def _all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether every value of every tensor is finite: a boolean scalar on their device."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).isfinite().all()
