"""Trainings in several groups of processes that take turns: one group works while the others wait.

So what else the machine does strikes all groups alike. A folder is the meeting place: ``go-GROUP-N`` lets a group take
its N-th turn, ``done-GROUP-N`` holds the seconds of its steps, ``end`` lets all of them end.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.sides import Ours, new_model
from condensenet.data import PreparedData
from condensenet.files import write_atomically
from condensenet.training import cosine_learning_rate
from condensenet.training.evaluation import to_device
from condensenet.training.optimizer import NesterovSGD
from tasks.train_worker import Job

POLL_S = 0.002
PATIENCE_S = 300.0
WARM_UP = 2  # untimed steps at the start, and one at the start of each turn
Stepper = Callable[[], None]


def wait_for(*paths: Path, alive: Callable[[], bool] = lambda: True) -> Path:
    """The first of ``paths`` that appears; raises ``TimeoutError`` when none does, or nobody is alive to write one."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for path in paths:
            if path.exists():
                return path
        if time.monotonic() > deadline or not alive():
            raise TimeoutError(f"{paths[0].name} did not appear")
        time.sleep(POLL_S)


def serve(folder: Path, group: str, step: Stepper, steps: int) -> None:
    """Take turns of ``steps`` steps until the end; every rank of the group calls this alike."""
    for _ in range(WARM_UP):
        step()
    if dist.get_rank() == 0:
        _write(folder / f"ready-{group}", time.time())
    turn = 0
    while _may_go(folder, group, turn):
        step()
        seconds = [_timed(step) for _ in range(steps)]
        if dist.get_rank() == 0:
            _write(folder / f"done-{group}-{turn}", seconds)
        turn += 1


def lead(
    folder: Path, groups: Sequence[str], turns: int, until: float, alive: Callable[[], bool]
) -> list[dict[str, list[float]]]:
    """Give every group its turns, in turned order; the seconds of their steps, turn by turn.

    Ends early when another turn would not end before ``until``, a time of ``time.monotonic``; one is always taken.
    """
    found: list[dict[str, list[float]]] = []
    longest = 0.0
    for turn in range(turns):
        started = time.monotonic()
        if turn > 0 and started + longest > until:
            break
        seconds = {}
        for group in groups if turn % 2 == 0 else reversed(groups):
            _write(folder / f"go-{group}-{turn}", turn)
            seconds[group] = json.loads(wait_for(folder / f"done-{group}-{turn}", alive=alive).read_text())
        found.append(seconds)
        longest = max(longest, time.monotonic() - started)
    return found


def end(folder: Path) -> None:
    _write(folder / "end", None)


def in_process(rank: int, world_size: int, group: str, job: Job, steps: int) -> None:
    """A plain process of ``group``: the body of what ``torch.multiprocessing`` spawns."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    meeting = f"file://{job.folder}/meeting-{group}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    run(group, ddp_step(job) if group == "ddp" else trainer_step(job), job, steps)


def in_ray(config: dict[str, Any]) -> None:
    """A worker of Ray Train, which joins the others as the stage ``train`` does."""
    from tasks import train_worker

    job, steps = config["job"]
    train_worker._start_process_group(job)
    run("ray", trainer_step(job), job, steps)


def run(group: str, step: Stepper, job: Job, steps: int) -> None:
    serve(job.folder, group, step, steps)
    dist.destroy_process_group()


def trainer_step(job: Job) -> Stepper:
    """A step of the library's ``Trainer``, as the stage ``train`` takes it."""
    torch.set_num_threads(job.threads)
    side = Ours(new_model(job.model), PreparedData(job.data), job.train, torch.device("cpu"), job.augment)
    return lambda: (side.step(), None)[1]


def ddp_step(job: Job) -> Stepper:
    """The same step with PyTorch's ``DistributedDataParallel`` as it comes: same model, batches, loss, optimizer."""
    torch.set_num_threads(job.threads)
    device = torch.device("cpu")
    source = Ours(new_model(job.model), PreparedData(job.data), job.train, device, job.augment)  # for its batches
    model = DistributedDataParallel(source.trainer.model)
    warnings.filterwarnings("ignore", "Grad strides do not match")  # channels last, as in our own step
    config = job.train
    optimizer = NesterovSGD(model.parameters(), momentum=config.momentum, weight_decay=config.weight_decay)

    def step() -> None:
        batch = next(source.batches, None)
        if batch is None:
            source.batches = iter(source.trainer.batches())
            batch = next(source.batches)
        images, labels = to_device(device, *batch)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step(cosine_learning_rate(config.learning_rate, source.trainer.progress))
        source.trainer.step += 1

    return step


def _may_go(folder: Path, group: str, turn: int) -> bool:
    """Whether the next turn is due and not the end; rank 0 looks, the others wait for its word."""
    word = torch.zeros(1)
    if dist.get_rank() == 0:
        word[0] = wait_for(folder / f"go-{group}-{turn}", folder / "end").name != "end"
    if dist.get_world_size() > 1:
        dist.broadcast(word, src=0)
    return bool(word[0])


def _timed(step: Stepper) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _write(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content).encode())
