"""Images per second of our training and of the authors' (benchmarks/authors_training.py), alternating in one process.

On a CPU our training also takes turns with its compiled kernels off, and ``--instruction-set`` limits
what all sides use.

    python -m benchmarks.train_throughput --json FILE          every condensing stage; about 3 minutes on two cores
    python -m benchmarks.train_throughput --quick              under 50 seconds on two cores
    python -m benchmarks.train_throughput --device cuda --fast the ``fast`` recipe (bf16)

One process holds both trainings and alternates between them every few steps, so other work on the machine slows both.
There is a row for every condensing stage and one for the whole schedule: seconds per image, averaged over the stages
by their share of the training. A step includes loading and augmenting the images, each training through its own data
pipeline, and all that the training loop does. It does not include evaluation and checkpoints.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import STARTED, instruction_sets
from benchmarks.reporting import Spread, chosen_device, device_name, parser, start, table, write_rows
from benchmarks.side_by_side import (
    AuthorsTraining,
    OurTraining,
    StepTime,
    Training,
    WithoutKernels,
    new_model,
    prepared,
    time_alternately,
)
from condensenet import ModelConfig, TrainConfig, presets
from condensenet.machine import usable_cores
from condensenet.models import kernels

OURS, KERNELS_OFF, AUTHORS = "ours", "kernels_off", "authors"
COLUMNS = (
    *("phase", "ours_images_per_s", "authors_images_per_s", "ratio", "ratio_p10", "ratio_p90"),
    *("kernels_off_images_per_s", "kernels_ratio", "ours_data_pct", "authors_data_pct", "rounds"),
)
WARM_UP_GPU = 12  # steps
SCHEDULE = "schedule"
AUTHORS_WORKERS = 8
Times = Mapping[int, Mapping[str, Sequence[StepTime]]]  # by stage and side
QUICK_S = 36.0  # from the start of this script to its last round; the rest of the 50 s is for starting and ending


def main() -> None:
    options = arguments()
    instruction_sets.limit(options.instruction_set)
    device = chosen_device(options.device)
    rows = run(options, device)
    print(f"{rows[0]['model']}, batch {options.batch}, {device_name(device)}, PyTorch {torch.__version__}")
    if device.type == "cpu" and not kernels.available():
        print("our training runs without its compiled kernels: they are built at installation if there is a C compiler")
    elif device.type == "cpu":
        print(f"kernels for {kernels.instruction_set()}")
    print(table(rows, [column for column in COLUMNS if any(column in row for row in rows)]))
    if options.quick:
        print(
            "quick: only one condensing stage was measured (its figures stand for the other condensing stages), "
            "with few steps: the spread is wide"
        )
    write_rows(options.json, rows)


def arguments() -> Namespace:
    cuda = torch.cuda.is_available()
    workers = min(AUTHORS_WORKERS, usable_cores()) if cuda else 0
    modes = ("none", "default", "reduce-overhead")
    options = parser(__doc__)
    add = options.add_argument
    add("--model", choices=sorted(presets), default="condensenet-86")
    add("--batch", type=int, default=64, help="images per step (default: %(default)s)")
    add("--device", default="cuda" if cuda else "cpu", help="default: %(default)s")
    add("--fast", action="store_true", help="our training in bf16, as in the fast recipe")
    add("--compile", choices=modes, default="none", help="torch.compile mode of our training (default: %(default)s)")
    add("--cuda-graph", action="store_true", help="our passes as one CUDA graph (train.cuda_graph)")
    add("--instruction-set", choices=sorted(instruction_sets.LIMITS), help="of a lesser CPU (default: this one's)")
    add("--data", type=Path, help="a folder of prepared images (default: random images)")
    add("--images", type=int, default=50_000, help="random images to generate (default: %(default)s)")
    add("--image-size", type=int, default=32, help="of random images (default: %(default)s)")
    add("--workers", type=int, default=workers, help="of the authors' data loader (default: %(default)s; theirs: 8)")
    add("--rounds", type=int, default=10, help="per condensing stage (default: %(default)s)")
    add("--steps", type=int, default=50 if cuda else 1, help="per training and round (default: %(default)s)")
    add("--threads", type=int, default=usable_cores(), help="default: all cores (%(default)s)")
    return options.parse_args()


def run(options: Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The rows of the stages and, last, of the schedule."""
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True  # as the authors do, for both trainings
    config = presets[options.model]
    images = min(options.images, 4096) if options.quick and device.type == "cpu" else options.images
    recipe = TrainConfig(batch_size=options.batch)
    precision: Literal["bf16", "fp32"] = "bf16" if options.fast else "fp32"
    our_recipe = replace(recipe, precision=precision, compile=options.compile, cuda_graph=options.cuda_graph)
    with prepared(options.data, images, options.image_size, config.num_classes) as data:
        model = new_model(config)
        authors = AuthorsTraining(model, data, recipe, device, options.workers)  # first: ours trains the model in place
        trainings: dict[str, Training] = {OURS: OurTraining(model, data, our_recipe, device)}
        if device.type == "cpu" and kernels.available():
            trainings[KERNELS_OFF] = WithoutKernels(OurTraining(new_model(config), data, our_recipe, device))
        trainings[AUTHORS] = authors
        shares = stage_shares(config)
        stages = measured_stages(len(shares), options.quick)
        times = measure(trainings, stages, shares, options, device)
    common = {"device": device_name(device), "model": options.model}
    return [{**common, **row, **details(options, precision, device)} for row in rows_of(times, shares, options.batch)]


def details(options: Namespace, precision: str, device: torch.device) -> dict[str, Any]:
    return {
        "batch_size": options.batch,
        "precision": precision,
        "compile": options.compile,
        "cuda_graph": options.cuda_graph,
        "kernels": device.type == "cpu" and kernels.available(),
        "instruction_set": used_instructions(options.instruction_set) if device.type == "cpu" else None,
        "threads": options.threads,
        "authors_workers": options.workers,
        "torch": torch.__version__,
        "quick": options.quick,
    }


def used_instructions(limit: str | None) -> str:
    """Those of our kernels; the other libraries have at least as many."""
    return f"{kernels.instruction_set()}{', limited to them' if limit else ''}"


def stage_shares(config: ModelConfig) -> list[float]:
    """The share of training in each condensing stage; the last is the optimization stage, half of it (paper)."""
    stages = config.num_condensing_stages
    return [0.5 / stages] * stages + [0.5] if stages else [1.0]


def measured_stages(number: int, quick: bool) -> list[int]:
    """All stages; with ``quick`` the last condensing stage, with most masks in place, and the optimization stage."""
    return list(range(number))[-2:] if quick else list(range(number))


def measure(
    trainings: Mapping[str, Training],
    stages: Sequence[int],
    shares: Sequence[float],
    options: Namespace,
    device: torch.device,
) -> Times:
    """Step times by stage and training, taken in the middle of each stage."""
    times: dict[int, dict[str, list[StepTime]]] = {}
    sides = list(trainings.values())
    settle = max(1, 3 * options.workers) if device.type == "cuda" else options.workers
    for number, stage in enumerate(stages):
        for training in sides:
            training.go_to(sum(shares[:stage]) + shares[stage] / 2)
        steps = WARM_UP_GPU if device.type == "cuda" else 1 if options.quick else 3
        warm_up(sides if number == 0 or not options.quick else sides[:1], steps)
        until = float("inf")
        if options.quick:  # an equal part of the remaining time, since this machine may be slow or busy
            until = time.monotonic() + (STARTED + QUICK_S - time.monotonic()) / (len(stages) - number)
        taken = time_alternately(sides, options.rounds, options.steps, settle, device, until)
        times[stage] = dict(zip(trainings, taken, strict=True))
    return times


def warm_up(trainings: Sequence[Training], steps: int) -> None:
    """Untimed steps: kernels are chosen or compiled in the first steps of a stage.

    The authors' training does the same in every stage, so when time is short it is warmed up in the first one only.
    """
    for training in trainings:
        for _ in range(steps):
            training.step()


def rows_of(times: Times, shares: Sequence[float], batch_size: int) -> list[dict[str, Any]]:
    """A row for each measured stage, then the schedule's; an unmeasured stage counts as the nearest measured one."""
    medians = {
        stage: {name: Spread.of(time.step_s for time in own).median for name, own in sides.items()}
        for stage, sides in times.items()
    }
    rows = [
        {"phase": phase_name(stage, len(shares)), **speeds(medians[stage], batch_size), **spreads(sides)}
        for stage, sides in times.items()
    ]
    names = next(iter(medians.values()))
    average = {name: schedule_seconds({stage: own[name] for stage, own in medians.items()}, shares) for name in names}
    return [*rows, {**speeds(average, batch_size), "phase": SCHEDULE}]


def speeds(step_s: Mapping[str, float], batch_size: int) -> dict[str, float]:
    """Images per second of every side from its seconds per step, and how many times faster ours is."""
    row = {f"{name}_images_per_s": batch_size / own for name, own in step_s.items()}
    row["ratio"] = step_s[AUTHORS] / step_s[OURS]
    if KERNELS_OFF in step_s:
        row["kernels_ratio"] = step_s[KERNELS_OFF] / step_s[OURS]
    return row


def spreads(sides: Mapping[str, Sequence[StepTime]]) -> dict[str, float]:
    """Spreads of the ratio within a round and of the step times, and the share of time spent waiting for data."""
    pairs = zip(sides[OURS], sides[AUTHORS], strict=True)
    ratios = Spread.of(authors.step_s / ours.step_s for ours, authors in pairs)
    row: dict[str, float] = {"ratio_p10": ratios.p10, "ratio_p90": ratios.p90, "rounds": len(sides[OURS])}
    for name, times in sides.items():
        step_ms = Spread.of(1000 * time.step_s for time in times)
        row |= {f"{name}_step_ms_{part}": getattr(step_ms, part) for part in ("median", "p10", "p90")}
        row[f"{name}_data_pct"] = 100 * sum(time.data_s for time in times) / sum(time.step_s for time in times)
    return row


def schedule_seconds(step_s: Mapping[int, float], shares: Sequence[float]) -> float:
    """Seconds per step, averaged over the whole training."""
    last = len(shares) - 1
    total = 0.0
    for stage, share in enumerate(shares):
        similar = [measured for measured in step_s if (measured == last) == (stage == last)]
        total += share * step_s[min(similar, key=lambda measured: abs(measured - stage))]
    return total


def phase_name(stage: int, stages: int) -> str:
    return "optimization" if stage == stages - 1 else f"condensing stage {stage}"


if __name__ == "__main__":
    start(main)
