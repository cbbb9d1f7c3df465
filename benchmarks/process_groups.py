"""Several groups of processes that train alternately: one group works while the others wait.

So other work on the machine slows all groups alike. They communicate through a folder: ``go-GROUP-N`` starts the N-th
turn of a group, ``done-GROUP-N`` holds the seconds of its steps, and ``end`` ends all groups.
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

from benchmarks.rounds import in_time
from benchmarks.side_by_side import OurTraining, new_model
from condensenet.data import PreparedData
from condensenet.files import write_atomically
from condensenet.training import cosine_learning_rate
from condensenet.training.optimizer import NesterovSGD
from tasks.train_worker import Job

POLL_S = 0.002
TIMEOUT_S = 300.0
WARM_UP = 2  # untimed steps at the start; every turn begins with one more
Step = Callable[[], object]
StepSeconds = dict[str, list[float]]  # of the steps of one round, by group


def wait_for(*paths: Path, alive: Callable[[], bool] = lambda: True) -> Path:
    """The first of ``paths`` to appear. Raises ``TimeoutError`` if none does or no process is alive to write it."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        for path in paths:
            if path.exists():
                return path
        if time.monotonic() > deadline or not alive():
            raise TimeoutError(f"{paths[0].name} did not appear")
        time.sleep(POLL_S)


def take_turns(folder: Path, group: str, step: Step, steps: int) -> None:
    """Take ``steps`` timed steps per turn until the end. Every rank of the group calls this."""
    for _ in range(WARM_UP):
        step()
    if dist.get_rank() == 0:
        _write(folder / f"ready-{group}", time.time())
    turn = 0
    while _is_due(folder, group, turn):
        step()
        seconds = [_time(step) for _ in range(steps)]
        if dist.get_rank() == 0:
            _write(folder / f"done-{group}-{turn}", seconds)
        turn += 1


def lead(
    folder: Path, groups: Sequence[str], rounds: int, until: float, alive: Callable[[], bool]
) -> list[StepSeconds]:
    """Give every group a turn in each round; every other round goes backwards. ``until``: see ``in_time``."""
    times: list[StepSeconds] = []
    for number in in_time(range(rounds), until):
        seconds = {}
        for group in groups if number % 2 == 0 else reversed(groups):
            _write(folder / f"go-{group}-{number}", number)
            seconds[group] = json.loads(wait_for(folder / f"done-{group}-{number}", alive=alive).read_text())
        times.append(seconds)
    return times


def end(folder: Path) -> None:
    _write(folder / "end", None)


def in_process(rank: int, world_size: int, group: str, job: Job, steps: int) -> None:
    """The body of a plain process of ``group``."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    rendezvous = f"file://{job.folder}/rendezvous-{group}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    run(group, ddp_step(job) if group == "ddp" else trainer_step(job), job, steps)


def in_ray(config: dict[str, Any]) -> None:
    """The body of a Ray Train worker, which joins the others as in the stage ``train``."""
    from tasks import train_worker

    job, steps = config["job"]
    train_worker.start_process_group(job)
    run("ray", trainer_step(job), job, steps)


def run(group: str, step: Step, job: Job, steps: int) -> None:
    take_turns(job.folder, group, step, steps)
    dist.destroy_process_group()


def trainer_step(job: Job) -> Step:
    """A step of the library's ``Trainer``, as in the stage ``train``."""
    return _our_training(job).step


def ddp_step(job: Job) -> Step:
    """The same step with PyTorch's ``DistributedDataParallel``: same model, batches, loss and optimizer."""
    training = _our_training(job)
    trainer, config = training.trainer, job.train
    model = DistributedDataParallel(trainer.model)
    warnings.filterwarnings("ignore", "Grad strides do not match")  # channels last, as in our own step
    optimizer = NesterovSGD(model.parameters(), momentum=config.momentum, weight_decay=config.weight_decay)

    def step() -> None:
        images, labels = training.next_batch()
        optimizer.zero_grad()
        F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels).backward()
        optimizer.step(cosine_learning_rate(config.learning_rate, trainer.progress))
        trainer.step += 1

    return step


def _our_training(job: Job) -> OurTraining:
    torch.set_num_threads(job.threads)
    return OurTraining(new_model(job.model), PreparedData(job.data), job.train, torch.device("cpu"), job.augment)


def _is_due(folder: Path, group: str, turn: int) -> bool:
    """Wait for the group's next turn (True) or the end (False). Rank 0 looks and tells the others."""
    due = torch.zeros(1)
    if dist.get_rank() == 0:
        due[0] = wait_for(folder / f"go-{group}-{turn}", folder / "end").name != "end"
    if dist.get_world_size() > 1:
        dist.broadcast(due, src=0)
    return bool(due[0])


def _time(step: Step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _write(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content).encode())
