"""Does the time of a training step follow its multiply-adds? Images per second against MACs for the CIFAR presets.

    python -m benchmarks.presets_speed --json FILE --plot FILE.svg     about 2 minutes on two cores
    python -m benchmarks.presets_speed --quick                         under 50 seconds on two cores

The networks CondenseNet-50 to 122 train alternately, one step each, in one process. A least-squares line is fitted to
the medians of their step times; r^2 is the share of the variance that it explains. ``dense`` is the first condensing
stage, before any pruning, and ``condensed`` the optimization stage. MACs are those of one image's forward pass in that
stage. ``--quick`` leaves out ``condensed``.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import STARTED
from benchmarks.reporting import Spread, chosen_device, device_name, output_file, parser, start, table, write_rows
from benchmarks.side_by_side import OurTraining, new_model, prepared, time_alternately
from condensenet import ModelConfig, TrainConfig, count_cost, presets
from condensenet.machine import usable_cores
from condensenet.models import kernels
from condensenet.models.presets import CIFAR_DEPTHS

NAMES = tuple(f"condensenet-{depth}" for depth in CIFAR_DEPTHS)
PHASES = {"dense": 0.05, "condensed": 0.75}  # progress at which a phase is measured
COLUMNS = ("phase", "model", "macs", "step_ms", "step_ms_p10", "step_ms_p90", "images_per_s", "line_step_ms", "r2")
IMAGE_SIZE = 32
QUICK_S = 36.0


def main() -> None:
    options = arguments()
    device = chosen_device(options.device)
    rows = run(options, device)
    print(f"batch {options.batch}, {device_name(device)}, PyTorch {torch.__version__}")
    print(table(rows, COLUMNS))
    for phase in dict.fromkeys(row["phase"] for row in rows):
        row = next(row for row in rows if row["phase"] == phase)
        print(
            f"{phase}: {row['line_ms']:.4g} ms + {row['line_ms_per_mmac']:.4g} ms per million MACs; r^2 {row['r2']:.4f}"
        )
    write_rows(options.json, rows)
    if options.plot:
        plot(rows, options.plot)


def arguments() -> Namespace:
    cuda = torch.cuda.is_available()
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", choices=sorted(presets), default=list(NAMES), help="default: CIFAR's")
    options.add_argument("--batch", type=int, default=64 if cuda else 16, help="images per step (default: %(default)s)")
    options.add_argument("--device", default="cuda" if cuda else "cpu", help="default: %(default)s")
    options.add_argument("--threads", type=int, default=usable_cores(), help="default: all cores (%(default)s)")
    options.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    options.add_argument("--steps", type=int, default=20 if cuda else 1, help="per round (default: %(default)s)")
    options.add_argument("--plot", type=output_file, metavar="FILE", help="draw images/s against MACs: .svg or .png")
    return options.parse_args()


def run(options: Namespace, device: torch.device) -> list[dict[str, Any]]:
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    rows = []
    with prepared(None, 2048, IMAGE_SIZE, 10) as data:
        recipe = TrainConfig(batch_size=options.batch)
        trainings = [OurTraining(new_model(presets[name]), data, recipe, device) for name in options.models]
        for phase in list(PHASES)[: 1 if options.quick else None]:
            for training in trainings:
                training.go_to(PHASES[phase])
                training.step()
            until = STARTED + QUICK_S if options.quick else float("inf")
            times = time_alternately(trainings, options.rounds, options.steps, 0, device, until)
            macs = [phase_macs(presets[name], phase) for name in options.models]
            rows += rows_of(phase, options, macs, [Spread.of(time.step_s for time in own) for own in times])
    details: dict[str, Any] = {"device": device_name(device), "torch": torch.__version__, "rounds": len(times[0])}
    details["kernels"] = device.type == "cpu" and kernels.available()
    return [{**row, **details} for row in rows]


def phase_macs(config: ModelConfig, phase: str) -> int:
    """Multiply-adds of one image's forward pass. ``count_cost`` counts the condensed form of a network."""
    dense = replace(config, condensation_factor=1, condense_classifier=False)
    return count_cost(new_model(dense if phase == "dense" else config), IMAGE_SIZE).macs


def rows_of(phase: str, options: Namespace, macs: Sequence[int], steps: Sequence[Spread]) -> list[dict[str, Any]]:
    """A row for each network, with the line fitted to all of them."""
    offset, slope, r2 = line(macs, [step.median for step in steps])
    return [
        {
            "phase": phase,
            "model": name,
            "macs": model_macs,
            **step.named("step_ms", 1000),
            "images_per_s": options.batch / step.median,
            "line_step_ms": 1000 * (offset + slope * model_macs),
            "line_ms": 1000 * offset,
            "line_ms_per_mmac": 1e9 * slope,
            "r2": r2,
            "batch_size": options.batch,
            "threads": options.threads,
        }
        for name, model_macs, step in zip(options.models, macs, steps, strict=True)
    ]


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """(offset, slope, r^2) of the least-squares line through the points."""
    slope, offset = np.polyfit(x, y, 1).tolist()
    residuals = np.asarray(y) - (offset + slope * np.asarray(x))
    return offset, slope, float(1 - np.var(residuals) / np.var(y))


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Images per second and step time against MACs, with the line; PNG or SVG by the file's suffix."""
    from tasks.report.figures import style

    path.parent.mkdir(parents=True, exist_ok=True)
    with style.figure_style():
        figure = style.new_figure(8.0, 3.2)
        speed, steps = figure.subplots(1, 2)
        for index, phase in enumerate(dict.fromkeys(row["phase"] for row in rows)):
            look = {"color": style.colour(index), "marker": style.marker(index)}
            plot_phase(speed, steps, [row for row in rows if row["phase"] == phase], look)
        for ax, label in ((speed, "training, images/s"), (steps, "step, ms")):
            ax.set(xlabel="multiply-adds of an image, millions", ylabel=label)
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0)
        steps.legend()
        figure.suptitle(f"CondenseNet on CIFAR, batch {rows[0]['batch_size']}, {rows[0]['device']}")
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, facecolor="white", metadata=metadata)


def plot_phase(speed: Any, steps: Any, rows: Sequence[dict[str, Any]], look: dict[str, Any]) -> None:
    rows = sorted(rows, key=lambda row: row["macs"])
    first, macs = rows[0], [row["macs"] / 1e6 for row in rows]
    smooth = np.linspace(macs[0], macs[-1], 100)
    line_ms = first["line_ms"] + first["line_ms_per_mmac"] * smooth
    points, curve = {**look, "linestyle": "none"}, {"color": look["color"]}
    speed.plot(macs, [row["images_per_s"] for row in rows], **points)
    speed.plot(smooth, 1000 * first["batch_size"] / line_ms, **curve)
    steps.plot(macs, [row["step_ms"] for row in rows], label=f"{first['phase']}, r² {first['r2']:.3f}", **points)
    steps.plot(smooth, line_ms, **curve)


if __name__ == "__main__":
    start(main)
