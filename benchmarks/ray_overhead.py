"""What Ray Train adds to the time of a step, and what a second worker brings; workers of one thread each, on CPUs.

    python benchmarks/ray_overhead.py --json FILE      about 2 minutes on two cores
    python benchmarks/ray_overhead.py --quick          under 50 seconds on two cores

Groups of processes train the same network with the same global batch and take turns in one run:

- ray: two workers of Ray Train, started as the stage ``train`` starts them, each with the library's ``Trainer``;
- ddp: two plain processes with PyTorch's DistributedDataParallel, the same model, batches, loss and optimizer;
- plain: two plain processes with the library's ``Trainer``, so ray without Ray;
- one: one plain process with the library's ``Trainer``: what two workers are compared with.

``--quick`` leaves out the last two, which leaves it about ten turns.

``overhead_pct`` is the median, over the turns, of a group's step time over that of ddp. ``start_up_s`` is the time
from the start of the group to the end of its second step. ``scaling_efficiency_pct``: 100 if two workers take half the
time of one.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import STARTED

# isort: split

import torch

from benchmarks import turns
from benchmarks.reporting import Spread, parser, start, table, write_rows
from benchmarks.sides import CIFAR_AUGMENT, prepared
from condensenet.config import ModelConfig, TrainConfig
from condensenet.machine import hardware
from condensenet.models import kernels
from condensenet.models.presets import presets
from tasks.train_worker import Job

SMALL = ModelConfig(block_depths=(4, 4, 4), growth_rates=(8, 16, 32))
WORKERS = {"ddp": 2, "plain": 2, "one": 1, "ray": 2}
COLUMNS = (
    "group",
    "workers",
    "step_ms",
    "step_ms_p10",
    "step_ms_p90",
    "images_per_s",
    "overhead_pct",
    "scaling_efficiency_pct",
    "start_up_s",
    "turns",
)
QUICK_S = 38.0
Seconds = Mapping[str, Sequence[float]]  # of the steps of one turn, by group


def main() -> None:
    options = arguments()
    groups = ["ddp", "ray"] if options.quick else list(WORKERS)
    with tempfile.TemporaryDirectory(prefix="condensenet-bench-") as folder, prepared(None, 2048, 32, 10) as data:
        job = Job(
            folder=Path(folder),
            data=data.root.resolve(),
            model=presets[options.model] if options.model else SMALL,
            train=TrainConfig(batch_size=options.batch),
            augment=CIFAR_AUGMENT,
            threads=1,
            use_gpu=False,
        )
        found, start_up = run(job, groups, options)
    name = {"device": hardware()["cpu"], "model": options.model or "4-4-4 / 8-16-32", "batch_size": options.batch}
    rows = [
        {**name, **row, "torch": torch.__version__, "kernels": kernels.available()}
        for row in rows_of(found, start_up, options.batch)
    ]
    print(f"{name['model']}, global batch {options.batch}, one thread a worker, {name['device']}")
    print(table(rows, COLUMNS))
    write_rows(options.json, rows)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(presets), help="default: blocks 4-4-4, growth rates 8-16-32")
    options.add_argument("--batch", type=int, default=64, help="over all workers (default: %(default)s)")
    options.add_argument("--turns", type=int, default=20, help="of each group (default: %(default)s)")
    options.add_argument("--steps", type=int, default=3, help="timed steps a turn (default: %(default)s)")
    return options.parse_args()


def run(job: Job, groups: Sequence[str], options: Namespace) -> tuple[list[dict[str, list[float]]], dict[str, float]]:
    """The seconds of all steps, turn by turn, and those of each group's start-up, which do not overlap."""
    start_up: dict[str, float] = {}
    found: list[dict[str, list[float]]] = []
    processes: list[BaseProcess] = []
    alive = lambda: all(process.is_alive() for process in processes)  # noqa: E731
    try:
        for group in groups:
            if group != "ray":
                started = time.time()
                processes += spawn(group, job, options.steps)
                start_up[group] = ready(job.folder, group, alive) - started
        until = STARTED + QUICK_S if options.quick else float("inf")
        leader = threading.Thread(target=lead, args=(job, groups, options, until, found, alive), daemon=True)
        started = time.time()
        leader.start()
        if "ray" in groups:
            train_on_ray(job, options.steps)
            start_up["ray"] = ready(job.folder, "ray", alive) - started
        leader.join()
    finally:
        turns.end(job.folder)
        for process in processes:
            process.join(10)
            process.kill()
    if not found:
        sys.exit("error: a group of processes ended before its turn")
    return found, start_up


def spawn(group: str, job: Job, steps: int) -> list[BaseProcess]:
    context = multiprocessing.get_context("spawn")
    arguments = [(rank, WORKERS[group], group, job, steps) for rank in range(WORKERS[group])]
    processes: list[BaseProcess] = [
        context.Process(target=turns.in_process, args=each, daemon=True) for each in arguments
    ]
    for process in processes:
        process.start()
    return processes


def ready(folder: Path, group: str, alive: Any) -> float:
    """When the group had taken its first steps, in seconds since the epoch."""
    return float(turns.wait_for(folder / f"ready-{group}", alive=alive).read_text())


def train_on_ray(job: Job, steps: int) -> None:
    """Start a cluster and two workers as the stage ``train`` does, and wait for their end."""
    from tasks import ray_cluster
    from tasks.params import RayParams

    params = RayParams(num_workers=WORKERS["ray"], threads_per_worker=job.threads, max_failures=0)
    with ray_cluster.cluster(params):
        failure = ray_cluster.train(turns.in_ray, (job, steps), params, job.folder)
    if failure is not None:
        sys.exit(f"error: {failure}")


def lead(
    job: Job, groups: Sequence[str], options: Namespace, until: float, found: list[dict[str, list[float]]], alive: Any
) -> None:
    """Wait for the last group, lead the turns, and let all end, whatever happens."""
    try:
        for group in groups:
            ready(job.folder, group, alive)
        found += turns.lead(job.folder, groups, options.turns, until, alive)
    finally:
        turns.end(job.folder)


def rows_of(found: Sequence[Seconds], start_up: Mapping[str, float], batch_size: int) -> list[dict[str, Any]]:
    """A row a group. A turn counts as the median of its steps; overheads are taken within a turn."""
    by_turn = {group: [Spread.of(turn[group]).median for turn in found] for group in found[0]}
    steps = {group: Spread.of(second for turn in found for second in turn[group]) for group in found[0]}
    rows = []
    for group in sorted(by_turn, key=list(WORKERS).index):
        over = Spread.of(own / ddp for own, ddp in zip(by_turn[group], by_turn["ddp"], strict=True))
        one = by_turn.get("one")
        gains = [alone / own for own, alone in zip(by_turn[group], one, strict=True)] if one else None
        rows.append(
            {
                "group": group,
                "workers": WORKERS[group],
                "step_ms": 1000 * steps[group].median,
                "step_ms_p10": 1000 * steps[group].p10,
                "step_ms_p90": 1000 * steps[group].p90,
                "images_per_s": batch_size / steps[group].median,
                "overhead_pct": 100 * (over.median - 1) if WORKERS[group] == 2 else None,
                "overhead_pct_p10": 100 * (over.p10 - 1) if WORKERS[group] == 2 else None,
                "overhead_pct_p90": 100 * (over.p90 - 1) if WORKERS[group] == 2 else None,
                "scaling_efficiency_pct": 100 * Spread.of(gains).median / WORKERS[group] if gains else None,
                "start_up_s": start_up.get(group),
                "turns": len(found),
            }
        )
    return rows


if __name__ == "__main__":
    start(main)
