"""How many stages run at once. The graph allows one for every setting; the machine often does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from flows.running import StageRunner
from tasks.errors import UserError
from tasks.params import Params

UNLIMITED = 1000
VARIABLE = "CONDENSENET_TRAININGS"


class Widths:
    """Turns for the stages of one flow: so many trainings at once, and so many other stages."""

    def __init__(self, trainings: int, others: int) -> None:
        self._trainings = BoundedSemaphore(trainings)
        self._others = BoundedSemaphore(others)

    @classmethod
    def of(cls, params: Params) -> Widths:
        return cls(trainings=trainings_at_once(params), others=max(2, cores()))

    @contextmanager
    def turn(self, stage: str, runner: StageRunner) -> Iterator[None]:
        """Wait for this stage's turn; raises ``Stopped`` when the flow is stopped meanwhile."""
        turns = self._trainings if stage.startswith("train@") else self._others
        while not turns.acquire(blocking=False):
            runner.pause(0.1)
        try:
            yield
        finally:
            turns.release()


def trainings_at_once(params: Params) -> int:
    """``CONDENSENET_TRAININGS``, or what the machine carries.

    A Ray cluster (``RAY_ADDRESS``) queues what it cannot place yet. Without one, every training starts a Ray of its
    own, which would hand out the same GPUs twice: one at a time. On CPUs a training is given its threads.
    """
    said = os.environ.get(VARIABLE)
    if said is not None:
        if not said.isdecimal() or int(said) < 1:
            raise UserError(f"{VARIABLE}={said!r} is not allowed: it must be 1 or more")
        return int(said)
    if os.environ.get("RAY_ADDRESS"):
        return UNLIMITED
    if params.ray.use_gpu:
        return 1
    return max(1, cores() // (params.ray.num_workers * params.ray.threads_per_worker))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))
