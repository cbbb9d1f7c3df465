"""Targets for one H200-class GPU, each beside its measurement.

    python -m benchmarks.gpu_targets --json FILE               at most about 10 minutes
    python -m benchmarks.gpu_targets --recipes bf16,default,graph bf16,none     only these, without a time limit
    python -m benchmarks.gpu_targets --quick                   bf16 only; without a GPU the same as --tiny
    python -m benchmarks.gpu_targets --whole-recipe DIR        also trains all 300 epochs on the prepared images in DIR
    python -m benchmarks.gpu_targets --tiny                    a dry run on any machine; its figures mean nothing

- CondenseNet-86, batch 64: images per second over the whole schedule, at least 6 times the authors' training;
- the whole CIFAR-10 recipe of CondenseNet-86 (300 epochs of 50,000 images, each followed by an evaluation of 10,000)
  in at most 10 minutes, projected from measured steps and evaluations, and with ``--whole-recipe`` also run;
- the GPU time of the kernels in one of its steps, which shows whether the GPU waits for Python;
- CondenseNet-74 at 224 x 224, trained from images in memory: at least 8,000 images per second over the schedule.

Each is measured in fp32 (the paper's recipe) and bf16 (the fast recipe), plain, as a CUDA graph (``train.cuda_graph``)
and compiled (``train.compile``), the most reliable and informative combinations first. If a measurement fails or there
is no time for it, its row says so. The file is rewritten after every measurement, so nothing is lost if the machine is.
fp32 is PyTorch's default: convolutions may round their inputs to TF32 (``torch.backends.cudnn.allow_tf32``), in both
trainings.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity as Activity

from benchmarks import STARTED, train_throughput
from benchmarks.reporting import Spread, device_name, parser, start, synchronise, table, write_rows
from benchmarks.side_by_side import CIFAR_AUGMENT, OurTraining, new_model, prepared, time_alternately
from benchmarks.train_throughput import SCHEDULE, WARM_UP_GPU, schedule_seconds, stage_shares, warm_up
from condensenet import ModelConfig, TrainConfig, presets
from condensenet.data import PreparedData
from condensenet.machine import usable_cores
from condensenet.training import fit
from condensenet.training.evaluation import evaluate

COLUMNS = ("target", "precision", "compile", "cuda_graph", "measured", "unit", "wanted", "met", "note")
RATIO, MINUTES, IMAGES_PER_S = 6.0, 10.0, 8000.0
PROFILED_STEPS = 5
LIMIT_S = 570.0  # since the start of this script
LASSO = 1e-5  # ImageNet's (authors)


class Recipe(NamedTuple):
    precision: str
    compile: str = "none"
    cuda_graph: bool = False


RECIPES = (
    Recipe("fp32"),
    Recipe("fp32", cuda_graph=True),
    Recipe("bf16", cuda_graph=True),
    Recipe("bf16", "default", cuda_graph=True),
    Recipe("fp32", "default", cuda_graph=True),
    Recipe("bf16"),
    Recipe("bf16", "reduce-overhead"),
    Recipe("bf16", "default"),
)
Targets = Callable[[Namespace, Recipe, torch.device], list[dict[str, Any]]]
LONGEST_S: dict[str, float] = {}  # of each kind of measurement so far
EPOCHS, TRAIN_IMAGES, TEST_IMAGES = 300, 50_000, 10_000


def main() -> None:
    options = arguments()
    device = torch.device("cpu" if options.tiny else "cuda")
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    common = {"device": device_name(device), "torch": torch.__version__, **({"met": "dry run"} if options.tiny else {})}
    for recipe in recipes(options):
        for targets in (cifar, busy, imagenet, *([whole_recipe] if options.whole_recipe else [])):
            rows += [{**row, **common} for row in attempt(targets, options, recipe, device)]
            write_rows(options.json, rows)
    print(f"{device_name(device)}, PyTorch {torch.__version__}{': a dry run, no figure counts' * options.tiny}")
    print(table(rows, COLUMNS))


def recipes(options: Namespace) -> list[Recipe]:
    if options.recipes:
        return options.recipes
    if options.tiny:
        return [Recipe("fp32"), Recipe("bf16", cuda_graph=True)]
    return [recipe for recipe in RECIPES if recipe.precision == "bf16" or not options.quick]


def attempt(targets: Targets, options: Namespace, recipe: Recipe, device: torch.device) -> list[dict[str, Any]]:
    """The rows of ``targets``; a failure, such as a graph that does not compile, must not lose the other rows."""
    started = time.monotonic()
    if started + LONGEST_S.get(targets.__name__, 0.0) > STARTED + options.limit_s:
        return [unmeasured(targets, recipe, "left out: no time left")]
    try:
        return targets(options, recipe, device)
    except Exception as error:
        traceback.print_exc()
        return [unmeasured(targets, recipe, f"failed: {str(error).partition(chr(10))[0] or type(error).__name__}")]
    finally:
        LONGEST_S[targets.__name__] = max(LONGEST_S.get(targets.__name__, 0.0), time.monotonic() - started)
        free_memory(recipe)


def unmeasured(targets: Targets, recipe: Recipe, note: str) -> dict[str, Any]:
    return {**row(targets.__name__, recipe, 0.0, "-", 1, note), "measured": None, "wanted": None}


def free_memory(recipe: Recipe) -> None:
    """Also reset the compiler: with too many networks compiled, PyTorch would give up compiling."""
    gc.collect()
    if recipe.compile != "none":
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--tiny", action="store_true", help="a dry run with tiny sizes on the CPU")
    options.add_argument("--whole-recipe", type=Path, metavar="DIR", help="train 300 epochs on these prepared images")
    metavar = "PRECISION[,COMPILE][,graph]"
    options.add_argument(
        "--recipes", type=parse_recipe, nargs="+", metavar=metavar, help="default: all, within 10 minutes"
    )
    options.add_argument("--seed", type=int, default=0, help="of the whole recipe (default: %(default)s)")
    options.add_argument("--threads", type=int, default=usable_cores(), help="default: all cores (%(default)s)")
    parsed = options.parse_args()
    if not torch.cuda.is_available() and not parsed.tiny:
        if not parsed.quick:
            sys.exit("error: there is no GPU here; --tiny is a dry run on the CPU")
        parsed.tiny = True
    parsed.rounds, parsed.steps = (1, 2) if parsed.tiny else (4, 25)
    parsed.limit_s = float("inf") if parsed.recipes or parsed.whole_recipe else LIMIT_S
    return parsed


def parse_recipe(text: str) -> Recipe:
    """Raises ``ValueError`` for a recipe that does not exist."""
    precision, *others = text.split(",")
    compile_, *graph = others if others and others[0] != "graph" else ("none", *others)
    recipe = Recipe(precision, compile_, graph == ["graph"])
    if len(graph) > 1 or (graph and not recipe.cuda_graph):
        raise ValueError(text)
    train_config(recipe, batch_size=1, epochs=1)
    return recipe


def cifar(options: Namespace, recipe: Recipe, device: torch.device) -> list[dict[str, Any]]:
    """Speed-up and projected duration of CondenseNet-86, from one measurement of its schedule beside the authors'."""
    throughput = throughput_options(options, recipe)
    rows = train_throughput.run(throughput, device)
    schedule = next(row for row in rows if row["phase"] == SCHEDULE)
    steps_s = TRAIN_IMAGES // throughput.batch * throughput.batch / schedule["ours_images_per_s"]
    evaluation_s = evaluation_seconds(throughput, recipe.precision, device)
    minutes = EPOCHS * (steps_s + evaluation_s) / 60
    speed = f"{schedule['ours_images_per_s']:.0f} against {schedule['authors_images_per_s']:.0f} images/s"
    parts = f"projected: {EPOCHS} x ({steps_s:.2f} s of steps + {evaluation_s:.2f} s of evaluation)"
    return [
        row(f"{throughput.model} against the authors' training", recipe, schedule["ratio"], "times", RATIO, speed),
        row(f"{throughput.model}, {EPOCHS} epochs", recipe, minutes, "minutes", -MINUTES, parts),
    ]


def throughput_options(options: Namespace, recipe: Recipe) -> Namespace:
    """The options of ``train_throughput`` for CondenseNet-86."""
    images, image_size, batch = (32, 16, 4) if options.tiny else (TRAIN_IMAGES, 32, 64)
    return Namespace(
        images=images,
        image_size=image_size,
        batch=batch,
        model="condensenet-50" if options.tiny else "condensenet-86",
        fast=recipe.precision == "bf16",
        compile=recipe.compile,
        cuda_graph=recipe.cuda_graph,
        quick=options.quick or options.tiny,
        instruction_set=None,
        data=None,
        workers=0 if options.tiny else min(train_throughput.AUTHORS_WORKERS, usable_cores()),
        rounds=options.rounds,
        steps=options.steps,
        threads=options.threads,
    )


def evaluation_seconds(throughput: Namespace, precision: str, device: torch.device) -> float:
    """Seconds to evaluate the 10,000 test images: the faster of two runs, since kernels are chosen in the first."""
    config: ModelConfig = presets[throughput.model]
    images = min(1000, throughput.images)
    with prepared(None, images, throughput.image_size, config.num_classes) as data:
        recipe = TrainConfig(batch_size=throughput.batch)
        trainer = OurTraining(new_model(config), data, recipe, device).trainer
        best = float("inf")
        for _ in range(2):
            synchronise(device)
            started = time.perf_counter()
            evaluate(trainer.model, trainer.evaluation_split, images, device, precision=precision)
            synchronise(device)
            best = min(best, time.perf_counter() - started)
    return best * TEST_IMAGES / images


def busy(options: Namespace, recipe: Recipe, device: torch.device) -> list[dict[str, Any]]:
    """Milliseconds of kernels in a step of CondenseNet-86 in the optimization stage, and the slowest kernels."""
    name, size, batch = ("condensenet-50", 16, 4) if options.tiny else ("condensenet-86", 32, 64)
    with prepared(None, 16 * batch, size, presets[name].num_classes) as data:
        training = OurTraining(new_model(presets[name]), data, train_config(recipe, batch, EPOCHS), device)
        training.go_to(0.75)
        count, ms = profile(training, device)
    slowest = sorted(ms, key=lambda kernel: -ms[kernel])[:8]
    note = f"{count} kernels; slowest: {', '.join(f'{kernel[:60]} {ms[kernel]:.2f}' for kernel in slowest)}"
    wanted = 60_000 * MINUTES / (EPOCHS * (TRAIN_IMAGES // 64))
    return [row(f"{name}, GPU time per step", recipe, sum(ms.values()), "ms", -round(wanted, 2), note)]


def profile(training: OurTraining, device: torch.device) -> tuple[int, dict[str, float]]:
    """The number of kernels in a step, and the milliseconds per step by kernel name."""
    on_gpu = device.type == "cuda"
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    warm_up([training], WARM_UP_GPU if on_gpu else 1)
    synchronise(device)
    with torch.profiler.profile(activities=[Activity.CUDA if on_gpu else Activity.CPU]) as profiler:
        warm_up([training], PROFILED_STEPS)
        synchronise(device)
    events = [event for event in profiler.key_averages() if event.device_type == kind]
    ms = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000 / PROFILED_STEPS
        for event in events
    }
    return sum(event.count for event in events) // PROFILED_STEPS, ms


def imagenet(options: Namespace, recipe: Recipe, device: torch.device) -> list[dict[str, Any]]:
    """CondenseNet-74 at 224 x 224 over its schedule, G = C = 4 and 8, from images in the device's memory."""
    images, size, batch = (4, 64, 2) if options.tiny else (4096, 224, 256)
    train = replace(train_config(recipe, batch, 120), group_lasso_weight=LASSO)
    rows = []
    with prepared(None, images, size, num_classes=1000 if not options.tiny else 2) as data:
        for name in ("condensenet-74-g4", "condensenet-74-g8"):
            config = presets[name] if not options.tiny else presets["condensenet-50"]
            config = replace(config, num_classes=len(data.manifest.classes))
            training = OurTraining(new_model(config), data, train, device, CIFAR_AUGMENT)
            shares, step_s = stage_shares(config), {}
            for stage, share in enumerate(shares):
                training.go_to(sum(shares[:stage]) + share / 2)
                warm_up([training], 1 if options.tiny else WARM_UP_GPU)
                (times,) = time_alternately([training], options.rounds, max(1, options.steps // 5), 1, device)
                step_s[stage] = Spread.of(time.step_s for time in times).median
            speed = batch / schedule_seconds(step_s, shares)
            note = f"batch {batch}, {size}x{size}, raw images in GPU memory, augmented there"
            rows.append(row(f"{name}, training", recipe, speed, "images/s", IMAGES_PER_S, note))
    return rows


def whole_recipe(options: Namespace, recipe: Recipe, device: torch.device) -> list[dict[str, Any]]:
    """All epochs of CondenseNet-86, with evaluations but without checkpoints: wall time."""
    images = PreparedData(options.whole_recipe)
    name, batch, epochs = ("condensenet-50", 4, 2) if options.tiny else ("condensenet-86", 64, EPOCHS)
    train = replace(train_config(recipe, batch, epochs), seed=options.seed)
    config = replace(presets[name], num_classes=len(images.manifest.classes))
    synchronise(device)
    started = time.perf_counter()
    history = list(fit(new_model(config, options.seed), images, CIFAR_AUGMENT, train, device=device))
    minutes = (time.perf_counter() - started) / 60
    note = f"run on {images.manifest.name}, seed {options.seed}: test error {history[-1].validation_error_pct:.2f}%"
    return [row(f"{name}, {epochs} epochs", recipe, minutes, "minutes", -MINUTES, note)]


def train_config(recipe: Recipe, batch_size: int, epochs: int) -> TrainConfig:
    return TrainConfig(batch_size=batch_size, epochs=epochs, **recipe._asdict())


def row(target: str, recipe: Recipe, measured: float, unit: str, wanted: float, note: str) -> dict[str, Any]:
    """``wanted`` is a minimum or, if negative, a maximum; ``met`` is yes or no."""
    met = measured >= wanted if wanted > 0 else measured <= -wanted
    return {
        "target": target,
        **recipe._asdict(),
        "measured": measured,
        "unit": unit,
        "wanted": f"{'at least' if wanted > 0 else 'at most'} {abs(wanted):g}",
        "met": "yes" if met else "no",
        "note": note,
    }


if __name__ == "__main__":
    start(main)
