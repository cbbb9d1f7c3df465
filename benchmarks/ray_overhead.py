"""The overhead of Ray Train per step, and the gain from a second worker; one thread per worker, on CPUs.

    python -m benchmarks.ray_overhead --json FILE      about 2 minutes on two cores
    python -m benchmarks.ray_overhead --quick          under 50 seconds on two cores

Groups of processes train the same network with the same global batch, alternating in one run:

- ray: two Ray Train workers, started as in the stage ``train``, each with the library's ``Trainer``;
- ddp: two plain processes with PyTorch's DistributedDataParallel and the same model, batches, loss and optimizer;
- plain: two plain processes with the library's ``Trainer``, that is, ray without Ray;
- one: one plain process with the library's ``Trainer``, to compare two workers with.

``--quick`` leaves out the last two and has time for about ten rounds.

``overhead_pct`` is a group's step time over ddp's, the median over the rounds. ``start_up_s`` is the time from the
start of the group to the end of its second step. ``scaling_efficiency_pct`` is 100 if two workers take half the time
of one.
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

import torch

from benchmarks import STARTED, process_groups
from benchmarks.process_groups import StepSeconds
from benchmarks.reporting import Spread, parser, start, table, write_rows
from benchmarks.side_by_side import CIFAR_AUGMENT, prepared
from condensenet import ModelConfig, TrainConfig, presets
from condensenet.machine import hardware
from condensenet.models import kernels
from tasks.train_worker import Job

SMALL = ModelConfig(block_depths=(4, 4, 4), growth_rates=(8, 16, 32))
WORKERS = {"ddp": 2, "plain": 2, "one": 1, "ray": 2}
COLUMNS = (
    *("group", "workers", "step_ms", "step_ms_p10", "step_ms_p90", "images_per_s"),
    *("overhead_pct", "scaling_efficiency_pct", "start_up_s", "rounds"),
)
QUICK_S = 38.0


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
        times, start_up = run(job, groups, options)
    name = {"device": hardware()["cpu"], "model": options.model or "4-4-4 / 8-16-32", "batch_size": options.batch}
    rows = [
        {**name, **row, "torch": torch.__version__, "kernels": kernels.available()}
        for row in rows_of(times, start_up, options.batch)
    ]
    print(f"{name['model']}, global batch {options.batch}, one thread per worker, {name['device']}")
    print(table(rows, COLUMNS))
    write_rows(options.json, rows)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(presets), help="default: blocks 4-4-4, growth rates 8-16-32")
    options.add_argument("--batch", type=int, default=64, help="over all workers (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    options.add_argument("--steps", type=int, default=3, help="timed steps per group and round (default: %(default)s)")
    return options.parse_args()


def run(job: Job, groups: Sequence[str], options: Namespace) -> tuple[list[StepSeconds], dict[str, float]]:
    """The seconds of all steps, round by round, and of each group's start-up; the start-ups do not overlap."""
    start_up_s: dict[str, float] = {}
    times: list[StepSeconds] = []
    processes: list[BaseProcess] = []
    alive = lambda: all(process.is_alive() for process in processes)  # noqa: E731
    try:
        for group in (group for group in groups if group != "ray"):
            started = time.time()
            processes += spawn(group, job, options.steps)
            start_up_s[group] = ready(job.folder, group, alive) - started
        until = STARTED + QUICK_S if options.quick else float("inf")
        leader = threading.Thread(target=lead, args=(job, groups, options, until, times, alive), daemon=True)
        started = time.time()
        leader.start()
        if "ray" in groups:
            train_on_ray(job, options.steps)
            start_up_s["ray"] = ready(job.folder, "ray", alive) - started
        leader.join()
    finally:
        stop(job.folder, processes)
    if not times:
        sys.exit("error: a group of processes ended before its turn")
    return times, start_up_s


def stop(folder: Path, processes: Sequence[BaseProcess]) -> None:
    process_groups.end(folder)
    for process in processes:
        process.join(10)
        process.kill()


def spawn(group: str, job: Job, steps: int) -> list[BaseProcess]:
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = [
        context.Process(target=process_groups.in_process, args=(rank, WORKERS[group], group, job, steps), daemon=True)
        for rank in range(WORKERS[group])
    ]
    for process in processes:
        process.start()
    return processes


def ready(folder: Path, group: str, alive: Any) -> float:
    """When the group had taken its first steps, in seconds since the epoch."""
    return float(process_groups.wait_for(folder / f"ready-{group}", alive=alive).read_text())


def train_on_ray(job: Job, steps: int) -> None:
    """Start a cluster and two workers as the stage ``train`` does, and wait until they end."""
    from tasks import ray_cluster
    from tasks.params import RayParams

    params = RayParams(num_workers=WORKERS["ray"], threads_per_worker=job.threads, max_failures=0)
    with ray_cluster.cluster(params):
        failure = ray_cluster.train(process_groups.in_ray, (job, steps), params, job.folder)
    if failure is not None:
        sys.exit(f"error: {failure}")


def lead(
    job: Job, groups: Sequence[str], options: Namespace, until: float, times: list[StepSeconds], alive: Any
) -> None:
    """Wait for the last group, lead the rounds, and end all groups whatever happens."""
    try:
        for group in groups:
            ready(job.folder, group, alive)
        times += process_groups.lead(job.folder, groups, options.rounds, until, alive)
    finally:
        process_groups.end(job.folder)


def rows_of(times: Sequence[StepSeconds], start_up_s: Mapping[str, float], batch_size: int) -> list[dict[str, Any]]:
    """A row for each group. A round counts as the median of its steps; overheads are taken within a round."""
    by_round = {group: [Spread.of(seconds[group]).median for seconds in times] for group in times[0]}
    rows = []
    for group in sorted(by_round, key=list(WORKERS).index):
        steps = Spread.of(second for seconds in times for second in seconds[group])
        row = {"group": group, "workers": WORKERS[group], **steps.named("step_ms", 1000)}
        row |= {"images_per_s": batch_size / steps.median, **comparisons(group, by_round)}
        rows.append({**row, "start_up_s": start_up_s.get(group), "rounds": len(times)})
    return rows


def comparisons(group: str, by_round: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """The overhead over ddp of groups of two, and the scaling efficiency where one worker was timed."""
    over = Spread.of(own / ddp for own, ddp in zip(by_round[group], by_round["ddp"], strict=True))
    percent = Spread(*(100 * (ratio - 1) for ratio in (over.median, over.p10, over.p90))).named("overhead_pct")
    row: dict[str, float | None] = {name: value if WORKERS[group] == 2 else None for name, value in percent.items()}
    row["scaling_efficiency_pct"] = None
    if "one" in by_round:
        gain = Spread.of(one / own for own, one in zip(by_round[group], by_round["one"], strict=True)).median
        row["scaling_efficiency_pct"] = 100 * gain / WORKERS[group]
    return row


if __name__ == "__main__":
    start(main)
