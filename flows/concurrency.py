"""How many stages run at once. The graph allows one for every setting; the machine often does not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Semaphore

from condensenet.machine import usable_cores
from flows.stage_process import StageRunner
from tasks.errors import UserError
from tasks.params import Params

UNLIMITED = 1000
POLL_S = 0.1
VARIABLE = "CONDENSENET_TRAININGS"


class StageSlots:
    """Limits how many trainings, and how many other stages, one flow runs at once.

    Waiting stages go in ``order``, so a rerun continues the training that was interrupted before it starts another.
    """

    def __init__(self, trainings: int, others: int, order: Iterable[str]) -> None:
        self._semaphores = {"training": Semaphore(trainings), "other": Semaphore(others)}
        self._rank = {stage: rank for rank, stage in enumerate(order)}
        self.waiting: list[str] = []

    @classmethod
    def for_machine(cls, params: Params, order: Iterable[str]) -> StageSlots:
        return cls(trainings_at_once(params), max(2, usable_cores()), order)

    @contextmanager
    def acquire(self, stage: str, runner: StageRunner) -> Iterator[None]:
        """Wait for a free slot and hold it; raises ``Stopped`` when the flow is stopped meanwhile."""
        semaphore = self._semaphores[_kind(stage)]
        self.waiting.append(stage)
        runner.pause(POLL_S)  # stages that become ready together line up first
        while not (self._is_next(stage) and semaphore.acquire(blocking=False)):
            runner.pause(POLL_S)
        self.waiting.remove(stage)
        try:
            yield
        finally:
            semaphore.release()

    def _is_next(self, stage: str) -> bool:
        competing = [other for other in tuple(self.waiting) if _kind(other) == _kind(stage)]
        return stage == min(competing, key=self._rank.__getitem__)


def _kind(stage: str) -> str:
    return "training" if stage.startswith("train@") else "other"


def trainings_at_once(params: Params) -> int:
    """``CONDENSENET_TRAININGS``, or what suits the machine.

    A Ray cluster (``RAY_ADDRESS``) queues what it cannot place yet. Without one, each training starts its own Ray,
    and two would use the same GPUs: one at a time. On CPUs, each training gets its threads.
    """
    value = os.environ.get(VARIABLE)
    if value is not None:
        if not value.isdecimal() or int(value) < 1:
            raise UserError(f"{VARIABLE}={value!r} is not allowed: it must be 1 or more")
        return int(value)
    if os.environ.get("RAY_ADDRESS"):
        return UNLIMITED
    if params.ray.use_gpu:
        return 1
    return max(1, usable_cores() // (params.ray.num_workers * params.ray.threads_per_worker))
