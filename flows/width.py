"""How many stages run at once. The graph allows one for every setting; the machine often does not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock

from condensenet.machine import usable_cores
from flows.running import StageRunner
from tasks.errors import UserError
from tasks.params import Params

UNLIMITED = 1000
PAUSE_S = 0.1
VARIABLE = "CONDENSENET_TRAININGS"


class Turns:
    """At most ``width`` stages at once; of those that wait, the first in ``order`` is next."""

    def __init__(self, width: int, order: Iterable[str]) -> None:
        self._free = width
        self._rank = {stage: rank for rank, stage in enumerate(order)}
        self._waiting: set[str] = set()
        self._guard = Lock()

    @contextmanager
    def turn(self, stage: str, runner: StageRunner) -> Iterator[None]:
        """Wait for this stage's turn; raises ``Stopped`` when the flow is stopped meanwhile."""
        with self._guard:
            self._waiting.add(stage)
        runner.pause(PAUSE_S)  # stages that become ready together line up first
        while not self._taken(stage):
            runner.pause(PAUSE_S)
        try:
            yield
        finally:
            with self._guard:
                self._free += 1

    def _taken(self, stage: str) -> bool:
        with self._guard:
            if self._free == 0 or stage != min(self._waiting, key=self._rank.__getitem__):
                return False
            self._waiting.remove(stage)
            self._free -= 1
            return True


class Widths:
    """Turns for the stages of one flow: so many trainings at once, and so many other stages."""

    def __init__(self, trainings: int, others: int, order: Iterable[str]) -> None:
        order = list(order)
        self._trainings, self._others = Turns(trainings, order), Turns(others, order)

    @classmethod
    def of(cls, params: Params, order: Iterable[str]) -> Widths:
        return cls(trainings_at_once(params), max(2, usable_cores()), order)

    @contextmanager
    def turn(self, stage: str, runner: StageRunner) -> Iterator[None]:
        turns = self._trainings if stage.startswith("train@") else self._others
        with turns.turn(stage, runner):
            yield


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
    return max(1, usable_cores() // (params.ray.num_workers * params.ray.threads_per_worker))
