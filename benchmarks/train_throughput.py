"""Images a second of our training and of the authors' algorithm (benchmarks/yardstick.py), in turn in one process.

    python benchmarks/train_throughput.py --json FILE          every condensing stage; about 3 minutes on two cores
    python benchmarks/train_throughput.py --quick              under 50 seconds on two cores
    python benchmarks/train_throughput.py --device cuda --fast the ``fast`` recipe (bf16)

One process holds both trainings and gives them turns of a few steps, so that what else the machine does strikes both.
A row for every condensing stage, and one for the whole schedule: seconds an image, averaged over the stages by their
share of the training. Steps include loading and changing the images, each side by its own data pipeline, and all that
the training loop does; they do not include evaluation and checkpoints.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import STARTED

# isort: split

import torch

from benchmarks.reporting import Spread, chosen_device, device_name, parser, start, table, write_rows
from benchmarks.sides import Block, Ours, Side, Yardstick, in_turn, new_model, prepared
from condensenet import presets
from condensenet.config import ModelConfig, TrainConfig
from condensenet.machine import usable_cores
from condensenet.models import kernels

COLUMNS = (
    "phase",
    "ours_images_per_s",
    "yardstick_images_per_s",
    "ratio",
    "ratio_p10",
    "ratio_p90",
    "ours_data_pct",
    "yardstick_data_pct",
    "blocks",
)
WARM_UP_GPU = 12  # steps
SCHEDULE = "schedule"
AUTHORS_WORKERS = 8
QUICK_S = 36.0  # from the start of this script to its last block; the rest of the 50 is for starting and ending


def main() -> None:
    options = arguments()
    device = chosen_device(options.device)
    rows = run(options, device)
    print(f"{rows[0]['model']}, batch {options.batch}, {device_name(device)}, PyTorch {torch.__version__}")
    if device.type == "cpu" and not kernels.available():
        print("our side runs without its compiled kernels, which installing the package builds where a C compiler is")
    print(table(rows, COLUMNS))
    if options.quick:
        print(
            "quick: of the condensing stages only one was measured (the figures of the others are taken to be its), "
            "with few steps: the spread is wide"
        )
    write_rows(options.json, rows)


def arguments() -> Namespace:
    cuda = torch.cuda.is_available()
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(presets), default="condensenet-86")
    options.add_argument("--batch", type=int, default=64, help="images a step (default: %(default)s)")
    options.add_argument("--device", default="cuda" if cuda else "cpu", help="default: %(default)s")
    options.add_argument("--fast", action="store_true", help="our side in bf16, as in the fast recipe")
    options.add_argument(
        "--compile",
        choices=("none", "default", "reduce-overhead"),
        default="none",
        help="torch.compile's mode for our side (default: %(default)s)",
    )
    options.add_argument("--cuda-graph", action="store_true", help="our passes as one CUDA graph (train.cuda_graph)")
    options.add_argument("--data", type=Path, help="a folder of prepared images (default: random images)")
    options.add_argument("--images", type=int, default=50_000, help="random images to make (default: %(default)s)")
    options.add_argument("--image-size", type=int, default=32, help="of random images (default: %(default)s)")
    options.add_argument(
        "--workers",
        type=int,
        default=min(AUTHORS_WORKERS, usable_cores()) if cuda else 0,
        help="processes that load the yardstick's images (default: %(default)s; theirs: 8)",
    )
    options.add_argument("--blocks", type=int, default=10, help="turns of each side and stage (default: %(default)s)")
    options.add_argument("--steps", type=int, default=50 if cuda else 1, help="steps a turn (default: %(default)s)")
    options.add_argument("--threads", type=int, default=usable_cores(), help="default: all cores (%(default)s)")
    return options.parse_args()


def run(options: Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure; the rows of the stages and, last, that of the schedule."""
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True  # as the authors do, for both sides
    levers = {"compile": options.compile, "cuda_graph": options.cuda_graph}
    config = presets[options.model]
    images = min(options.images, 4096) if options.quick and device.type == "cpu" else options.images
    with prepared(options.data, images, options.image_size, config.num_classes) as data:
        recipe = TrainConfig(batch_size=options.batch)
        precision: Literal["bf16", "fp32"] = "bf16" if options.fast else "fp32"
        ours_recipe = replace(recipe, precision=precision, **levers)
        model = new_model(config)
        theirs = Yardstick(model, data, recipe, device, options.workers)
        sides: list[Side] = [Ours(model, data, ours_recipe, device), theirs]
        shares = stage_shares(config)
        measured = measure(sides, measured_stages(len(shares), options.quick), shares, options, device)
    common = {"device": device_name(device), "model": options.model}
    details = {
        "batch_size": options.batch,
        "precision": precision,
        **levers,
        "kernels": device.type == "cpu" and kernels.available(),
        "threads": options.threads,
        "yardstick_workers": options.workers,
        "torch": torch.__version__,
        "quick": options.quick,
    }
    return [{**common, **row, **details} for row in rows_of(measured, shares, options.batch)]


def stage_shares(config: ModelConfig) -> list[float]:
    """The share of training in each condensing stage; the last is the optimization stage, half of it (paper)."""
    stages = config.num_condensing_stages
    return [0.5 / stages] * stages + [0.5] if stages else [1.0]


def measured_stages(number: int, quick: bool) -> list[int]:
    """All; if quick the last condensing stage, when most masks are in place, and the optimization stage."""
    return list(range(number))[-2:] if quick else list(range(number))


def measure(
    sides: Sequence[Side], stages: Sequence[int], shares: Sequence[float], options: Namespace, device: torch.device
) -> dict[int, list[list[Block]]]:
    """Blocks by stage and side, taken in the middle of each stage."""
    found: dict[int, list[list[Block]]] = {}
    settle = max(1, 3 * options.workers) if device.type == "cuda" else options.workers
    for number, stage in enumerate(stages):
        for side in sides:
            side.go_to(sum(shares[:stage]) + shares[stage] / 2)
        steps = WARM_UP_GPU if device.type == "cuda" else 1 if options.quick else 3
        warm_up(sides if number == 0 or not options.quick else sides[:1], steps)
        until = float("inf")
        if options.quick:  # an equal part of what is left; this machine may be slow or busy
            until = time.monotonic() + (STARTED + QUICK_S - time.monotonic()) / (len(stages) - number)
        found[stage] = in_turn(sides, options.blocks, options.steps, settle, device, until)
    return found


def warm_up(sides: Sequence[Side], steps: int) -> None:
    """Steps that are not timed: kernels are chosen, or compiled, at the first ones of a stage.

    The yardstick does the same in every stage, so if time is short it is warmed up at the first one alone.
    """
    for side in sides:
        for _ in range(steps):
            side.step()


def rows_of(
    measured: Mapping[int, list[list[Block]]], shares: Sequence[float], batch_size: int
) -> list[dict[str, Any]]:
    """A row a measured stage, and the schedule's; an unmeasured condensing stage counts as the nearest measured one."""
    rows = []
    seconds: dict[int, list[Spread]] = {}
    for stage, blocks in measured.items():
        seconds[stage] = [Spread.of(block.step_s for block in side) for side in blocks]
        ratios = Spread.of(theirs.step_s / ours.step_s for ours, theirs in zip(*blocks, strict=True))
        rows.append(
            {
                "ours_images_per_s": batch_size / seconds[stage][0].median,
                "yardstick_images_per_s": batch_size / seconds[stage][1].median,
                "ratio": seconds[stage][1].median / seconds[stage][0].median,
                "phase": phase_name(stage, len(shares)),
                "ratio_p10": ratios.p10,
                "ratio_p90": ratios.p90,
                **{
                    f"{name}_step_ms_{part}": 1000 * getattr(spread, part)
                    for name, spread in zip(("ours", "yardstick"), seconds[stage], strict=True)
                    for part in ("median", "p10", "p90")
                },
                **{
                    f"{name}_data_pct": 100 * sum(b.data_s for b in side) / sum(b.step_s for b in side)
                    for name, side in zip(("ours", "yardstick"), blocks, strict=True)
                },
                "blocks": len(blocks[0]),
            }
        )
    ours, theirs = (schedule_seconds({s: v[side].median for s, v in seconds.items()}, shares) for side in (0, 1))
    schedule = {"ours_images_per_s": batch_size / ours, "yardstick_images_per_s": batch_size / theirs}
    return [*rows, {**schedule, "ratio": theirs / ours, "phase": SCHEDULE}]


def schedule_seconds(step_s: Mapping[int, float], shares: Sequence[float]) -> float:
    """Seconds a step on average over the whole training."""
    last = len(shares) - 1
    total = 0.0
    for stage, share in enumerate(shares):
        alike = [s for s in step_s if (s == last) == (stage == last)]
        total += share * step_s[min(alike, key=lambda s: abs(s - stage))]
    return total


def phase_name(stage: int, stages: int) -> str:
    return "optimization" if stage == stages - 1 else f"condensing stage {stage}"


if __name__ == "__main__":
    start(main)
