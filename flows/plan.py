"""What a study will take, before it is started.

python -m flows.plan                               # params.yaml as it is
python -m flows.plan --study imagenet              # another study, before params.yaml is touched
python -m flows.plan --study imagenet --images 1281167,50000 --images-per-s 900 --watts 700
python -m flows.plan --measure                     # a few steps here give images/s

It exits with status 1 if this machine cannot hold what the study needs.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from flows import study as studies
from tasks import params, paths, plain_yaml
from tasks.console import say, size
from tasks.errors import UserError, one_line, run_main
from tasks.params import Params
from tasks.planning.machine import free_disk, gpus_here, memory_here, too_few_cores, unchecked_gpus
from tasks.planning.measuring import Rate, measure_rate
from tasks.planning.plan import Images, SettingPlan, count_images, decoded_per_core_s, plan_setting, what_cannot_fit
from tasks.report import formats
from tasks.report.terminal_table import plain_table

DASH = "–"
HOURS_NEED_A_RATE = "Hours need a rate: --measure here, or --images-per-s N of a machine like the one that will train."


def main() -> None:
    options = arguments()
    text = studies.compose_params(options.study, options.set, options.setting or None)
    with one_line():
        loaded = params.parse(plain_yaml.parse(text))
        images = count_images(loaded, options.images)
        names = options.setting or list(loaded.settings)
        plans = [plan_setting(loaded, loaded.setting(name), images, rate(loaded, name, options)) for name in names]
    describe(loaded, images, plans, options.watts)
    if (loaded.paths.data / paths.MANIFEST).exists():
        images = replace(images, bytes_each=0.0)  # they are on the disk
    free, gpus, memory = free_disk(), gpus_here(loaded), memory_here(loaded)
    lacking = what_cannot_fit(plans, images, loaded, free_bytes=free, gpu_bytes=gpus, memory_bytes=memory)
    if lacking:
        raise UserError("this machine cannot hold it: " + "; ".join(lacking))


def rate(loaded: Params, name: str, options: argparse.Namespace) -> Rate | None:
    if options.images_per_s is not None:
        return Rate(images_per_s=options.images_per_s, source="given by --images-per-s")
    return measure_rate(loaded, loaded.setting(name)) if options.measure else None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", help="compose it from conf/study/STUDY.yaml; params.yaml stays as it is")
    parser.add_argument("--setting", action="append", default=[], help="only this setting (repeatable)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--images", type=_images, metavar="TRAIN,TEST", help="for a source that is not here yet")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--images-per-s", type=_positive, metavar="N", help="that one worker trains")
    speed.add_argument("--measure", action="store_true", help="measure that by a few steps on this machine")
    parser.add_argument("--watts", type=_positive, metavar="N", help="of one worker's share of the machine")
    return parser.parse_args()


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a number above 0")
    return value


def _images(text: str) -> tuple[int, int]:
    counts = text.split(",")
    if len(counts) != 2 or not all(count.isascii() and count.isdecimal() and int(count) > 0 for count in counts):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: two numbers, such as 1281167,50000")
    return int(counts[0]), int(counts[1])


def describe(loaded: Params, images: Images, plans: list[SettingPlan], watts: float | None) -> None:
    """Print the study's images, a row for each setting, the sums and where the figures are from."""
    held_out = f" (and {images.validation:,} held out)" if images.validation else ""
    disk = images.total_bytes + sum(plan.checkpoint_bytes for plan in plans)
    say(f"{loaded.study}: {images.train:,} training{held_out} and {images.test:,} test images")
    say(f"disk: about {size(images.total_bytes)} of prepared images, {size(disk)} with checkpoints")
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(settings_table(images, plans, watts))
    unchecked = [line] if (line := unchecked_gpus(loaded)) else []
    for line in (*notes(images, plans, watts), *loading_notes(loaded, plans), *unchecked):
        say(line)


def settings_table(images: Images, plans: list[SettingPlan], watts: float | None) -> Table:
    table = plain_table()
    table.add_column("setting", no_wrap=True, vertical="bottom")
    titles = (
        "workers",
        "params",
        "MACs\ntraining",
        "MACs\nexported",
        "epochs",
        "steps",
        "memory of\na worker",
        "images/s\na worker",
    )
    for title in (*titles, "hours", "kWh"):
        table.add_column(title, justify="right", no_wrap=True)
    for plan in plans:
        hours = plan.hours(images)
        table.add_row(
            plan.name,
            str(plan.workers),
            formats.short_count(plan.parameters),
            formats.short_count(plan.training_macs),
            formats.short_count(plan.exported_macs),
            str(plan.epochs),
            f"{plan.steps:,}",
            size(plan.memory_bytes),
            DASH if plan.rate is None else f"{plan.rate.images_per_s:,.0f}",
            DASH if hours is None else f"{hours:,.3g}",
            DASH if hours is None or watts is None else f"{hours * plan.workers * watts / 1000:,.3g}",
        )
    return table


def notes(images: Images, plans: list[SettingPlan], watts: float | None) -> list[str]:
    """Sums over the settings, and how the figures were found."""
    lines = ["Memory is a lower bound: parameters, gradients, momentum and what layers keep for the backward pass."]
    hours = [plan.hours(images) or 0.0 for plan in plans]
    if not all(hours):
        return [*lines, HOURS_NEED_A_RATE]
    worker_hours = sum(own * plan.workers for own, plan in zip(hours, plans, strict=True))
    energy = "" if watts is None else f", {worker_hours * watts / 1000:,.3g} kWh"
    sources = dict.fromkeys(plan.rate.source for plan in plans if plan.rate)
    lines.append(f"All settings one after another: {sum(hours):,.3g} hours{energy}.")
    return lines + [f"Images per second: {source}." for source in sources]


def loading_notes(loaded: Params, plans: list[SettingPlan]) -> list[str]:
    """The cores that decode, if they decode photographs to train; and whether there are as many as threads."""
    lines = [line] if (line := too_few_cores(loaded.ray)) else []
    plans = [plan for plan in plans if not plan.gpu_decoding]
    per_core_s, threads = decoded_per_core_s(loaded.data), plans[0].decoded_per_s if plans else None
    if per_core_s is None or threads is None:
        return lines
    lines.append(
        f"A core decodes {per_core_s:,.0f} photographs/s (docs/RESULTS.md), so the threads of a worker load "
        f"{threads:,.0f} images/s; for each 1,000 that it trains it needs {1000 / per_core_s:.2g} cores."
    )
    fastest = max((plan.rate.images_per_s for plan in plans if plan.rate), default=0.0)
    if fastest:
        lines.append(f"Decoding for {fastest:,.0f} images/s takes about {fastest / per_core_s:.2g} CPU cores a worker.")
    if threads < fastest:
        lines.append(
            "Where a worker trains more than it loads, hours are those of loading. More ray.loader_threads (and "
            "cores) or a smaller data.shorter_side help."
        )
    return lines


if __name__ == "__main__":
    run_main(main)
