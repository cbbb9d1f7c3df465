"""How many stages run at once. The graph allows one for every setting; the machine often does not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Semaphore

from condensenet.machine import usable_cores
from flows.stage_process import StageRunner
from tasks import environment
from tasks.params import Params
from tasks.ray_local import LocalRay

UNLIMITED = 1000
POLL_S = 0.1
VARIABLE = "CONDENSENET_TRAININGS"
DRIVER = Path("/proc/driver/nvidia")


class StageSlots:
    """Limits how many trainings, and how many other stages, one flow runs at once.

    Waiting stages go in ``order``, so a rerun continues the training that was interrupted before it starts another.
    """

    def __init__(self, trainings: int, others: int, order: Iterable[str]) -> None:
        self._semaphores = {"training": Semaphore(trainings), "tables": Semaphore(1), "other": Semaphore(others)}
        self._rank = {stage: rank for rank, stage in enumerate(order)}
        self.waiting: list[str] = []

    @classmethod
    def for_machine(cls, params: Params, order: Iterable[str], at_once: int | None = None) -> StageSlots:
        """``at_once`` limits the trainings further."""
        trainings = trainings_at_once(params)
        return cls(min(trainings, at_once or trainings), max(2, usable_cores()), order)

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
    if stage == "tables":  # it waits long for a quiet machine, in nobody's way
        return stage
    return "training" if stage.startswith("train@") else "other"


def trainings_at_once(params: Params) -> int:
    """``CONDENSENET_TRAININGS``, or what suits the machine: each training gets its threads, or its GPUs.

    A cluster that ``RAY_ADDRESS`` names queues what it cannot place yet.
    """
    given = environment.count(VARIABLE)
    if given is not None:
        return given
    if os.environ.get("RAY_ADDRESS"):
        return UNLIMITED
    if params.ray.use_gpu:
        return max(1, visible_gpus() // params.ray.max_workers)
    return max(1, usable_cores() // (params.ray.max_workers * params.ray.threads_per_worker))


def own_ray(params: Params) -> AbstractContextManager[LocalRay | None]:
    """A Ray for the flow's trainings, which starts with the first of them; None if ``RAY_ADDRESS`` names a cluster."""
    if os.environ.get("RAY_ADDRESS"):
        return nullcontext()
    asked_for = trainings_at_once(params) * params.ray.max_workers * params.ray.threads_per_worker
    return LocalRay(max(usable_cores(), asked_for), gpus=params.ray.use_gpu)


def visible_gpus() -> int:
    """The NVIDIA GPUs that a process may use; counted without CUDA, which would occupy them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() and name.strip() != "-1"])
    return len(list(DRIVER.glob("gpus/*")))
