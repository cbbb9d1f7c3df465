"""How all ranks agree to stop after the same step, without a message of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from condensenet.training import distributed

GPU_STOP_INTERVAL = 16  # steps between checks whether another rank was asked to stop: a check waits for the GPU


class StopAgreement:
    """The trainer averages ``flag`` over the ranks with each step's gradients: above 0 if any was asked to stop."""

    def __init__(self, ask: Callable[[], bool] | None, device: torch.device) -> None:
        self.ask = ask
        self.flag = torch.zeros(1, device=device)

    def reached(self, step: int) -> bool:
        """Whether to stop after this step, the same on all ranks. Ask after every step."""
        requested = self.ask is not None and self.ask()
        if distributed.world_size() == 1:
            return requested
        agreed = (self.flag.device.type == "cpu" or step % GPU_STOP_INTERVAL == 0) and bool(self.flag > 0)
        if requested:
            self.flag.fill_(1)  # reaches the other ranks with the next step
        return agreed

    def reset(self) -> None:
        self.flag.zero_()
