"""Does our training end where the authors' algorithm ends? Both on the same images, from the same initial weights.

    python benchmarks/fidelity.py --json FILE --curves FILE       six trainings, about 15 minutes on two cores
    python benchmarks/fidelity.py --quick                         under 50 seconds; two short trainings a side
    python benchmarks/fidelity.py --model condensenet-86 --epochs 300 --train-images 0 --test-images 0 --device cuda

Ours is ``condensenet.training.fit``, theirs benchmarks/authors_training.py: the same network, recipe, images and, for
each seed, the same initial weights, but each draws batches, crops and flips by its own data pipeline. So single
trainings differ by chance, and what is compared is the mean test error over the seeds: the difference beside its
standard error
(that of a difference of two means). Where both are the same, chance alone puts about one difference in three beyond
one standard error. What can be compared without chance is in tests/benchmarks: the same batches give the same weights.

The real images are CIFAR-10 re-encoded as JPEG (quality 75, 4:2:0): errors come out somewhat above the paper's.
A finished training is kept in the folder ``--out`` and not repeated, so an interruption costs at most one training.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import benchmarks  # noqa: F401

# isort: split

import numpy as np
import torch

from benchmarks import authors_training, images
from benchmarks.reporting import chosen_device, device_name, parser, start, table, write_rows
from benchmarks.sides import CIFAR_AUGMENT, new_model
from condensenet import ModelConfig, presets
from condensenet.config import TrainConfig
from condensenet.data import PreparedData
from condensenet.files import write_atomically
from condensenet.interop import authors_state_dict
from condensenet.machine import usable_cores
from condensenet.models import kernels
from condensenet.models.condensing import condensing_stage
from condensenet.training import fit
from condensenet.training.recipe import training_code

SIDES = ("ours", "yardstick")
SMALL = ModelConfig(block_depths=(4, 4, 4), growth_rates=(4, 8, 16))
COLUMNS = ("side", "seed", "error_pct", "standard_error_pct", "train_loss", "seconds")
CURVE = ("side", "seed", "epoch", "condensing_stage", "train_loss", "error_pct")
QUICK = {"train_images": 640, "test_images": 320, "epochs": 2, "seeds": [0, 1]}
Training = dict[str, Any]


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    device = chosen_device(options.device)
    data = image_data(options)
    model = presets[options.model] if options.model else SMALL
    model = replace(model, num_classes=len(data.manifest.classes))
    sides = [options.only] if options.only else SIDES
    trainings = [one_training(side, seed, model, data, options, device) for seed in options.seeds for side in sides]
    if options.only:
        return
    recipe = TrainConfig(epochs=options.epochs, batch_size=options.batch, group_lasso_weight=options.lasso)
    rows = [{**row, **facts(model, recipe, data, device)} for row in summary(trainings)]
    name = options.model or f"{join(SMALL.block_depths)} / {join(SMALL.growth_rates)}"
    print(
        f"{name}, {options.epochs} epochs of {data.manifest.splits['train']} images of {data.manifest.name}, "
        f"{data.manifest.splits['test']} test images, {device_name(device)}"
    )
    print(table(rows, COLUMNS))
    print(verdict(rows))
    if options.quick:
        print("quick: a few steps, still near chance: it shows that the script runs, and compares nothing")
    write_rows(options.json, rows)
    if options.curves:
        write_atomically(options.curves, curves(trainings).encode())


def arguments() -> Namespace:
    cuda = torch.cuda.is_available()
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(presets), help="default: blocks 4-4-4, growth rates 4-8-16")
    options.add_argument("--epochs", type=int, default=8, help="default: %(default)s")
    options.add_argument("--batch", type=int, default=64, help="default: %(default)s")
    options.add_argument("--lasso", type=float, default=0.0, help="weight of the group lasso (default: %(default)s)")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    options.add_argument("--train-images", type=int, default=6400, help="0: all (default: %(default)s)")
    options.add_argument("--test-images", type=int, default=4000, help="0: all (default: %(default)s)")
    options.add_argument("--data", type=Path, help="a folder of prepared raw images (default: CIFAR-10 as JPEG)")
    options.add_argument("--device", default="cuda" if cuda else "cpu", help="default: %(default)s")
    options.add_argument("--threads", type=int, default=usable_cores(), help="default: all cores (%(default)s)")
    options.add_argument("--workers", type=int, default=min(8, usable_cores()) if cuda else 0, help="of the yardstick")
    options.add_argument("--out", type=Path, default=Path("state/fidelity"), help="working folder (%(default)s)")
    options.add_argument("--only", choices=SIDES, help="train this side alone and stop; the rest later")
    options.add_argument("--curves", type=Path, metavar="FILE", help="write a CSV table, a row an epoch")
    found = options.parse_args()
    if found.quick:
        vars(found).update(QUICK)
    return found


def image_data(options: Namespace) -> PreparedData:
    """The images asked for, in whole batches: the authors' loop takes a smaller last batch, ours leaves it out."""
    try:
        whole = PreparedData(options.data) if options.data else images.cifar10_jpeg(options.out / "cifar10-jpeg")
    except FileNotFoundError as error:
        if not options.quick:
            sys.exit(f"error: {error}: --data DIR")
        print("CIFAR-10 is not there: the figures are of random patterns")
        return images.patterns(options.out / "patterns", options.train_images, options.test_images)
    counts = whole.manifest.splits
    train = (options.train_images or counts["train"]) // options.batch * options.batch
    test = options.test_images or counts["test"]
    return images.part(whole, options.out / f"{whole.manifest.name}-{train}-{test}", train, test)


def one_training(
    side: str, seed: int, model: ModelConfig, data: PreparedData, options: Namespace, device: torch.device
) -> Training:
    """A training's curve, from its file if it has been done."""
    recipe = TrainConfig(epochs=options.epochs, batch_size=options.batch, group_lasso_weight=options.lasso, seed=seed)
    identity = {"side": side, "code": code(side), **facts(model, recipe, data, device)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = options.out / f"{side}-{seed}-{digest}.json"
    if path.exists():
        return json.loads(path.read_text())
    started = time.monotonic()
    train = train_ours if side == "ours" else train_yardstick
    curve = train(model, data, recipe, device, options.workers)
    training = {"side": side, "seed": seed, "seconds": time.monotonic() - started, "curve": curve}
    write_atomically(path, json.dumps(training).encode())
    print(f"{side}, seed {seed}: {curve[-1]['error_pct']:.2f}% in {training['seconds']:.0f} s", flush=True)
    return training


def train_ours(
    model: ModelConfig, data: PreparedData, recipe: TrainConfig, device: torch.device, _workers: int
) -> list[dict[str, float]]:
    history = fit(new_model(model, recipe.seed), data, CIFAR_AUGMENT, recipe, device=device)
    return [
        {
            "epoch": row.epoch,
            "condensing_stage": row.condensing_stage,
            "train_loss": row.train_loss,
            "error_pct": row.validation_error_pct,
        }
        for row in history
    ]


def train_yardstick(
    model: ModelConfig, data: PreparedData, recipe: TrainConfig, device: torch.device, workers: int
) -> list[dict[str, float]]:
    net = authors_training.YardstickNet(model, data.manifest.image_size)
    net.load_state_dict(authors_state_dict(new_model(model, recipe.seed)))
    trainer = authors_training.YardstickTrainer(net, recipe, device)
    loader = authors_training.train_loader(data.split("train"), CIFAR_AUGMENT, recipe.batch_size, workers)
    test_loader = authors_training.evaluation_loader(data.evaluation_split, recipe.batch_size, workers)
    torch.manual_seed(recipe.seed)  # batches, crops and flips
    net.train()
    curve = []
    for epoch in range(recipe.epochs):
        trainer.losses = authors_training.Average()
        for index, (batch, labels) in enumerate(loader):
            progress = (epoch * len(loader) + index) / (recipe.epochs * len(loader))
            trainer.step(batch, labels, progress)
        curve.append(
            {
                "epoch": epoch + 1,
                "condensing_stage": condensing_stage(progress, model.num_condensing_stages),
                "train_loss": trainer.losses.mean,  # theirs holds the group lasso too
                "error_pct": trainer.error_pct(test_loader),
            }
        )
    return curve


def code(side: str) -> dict[str, Any]:
    """What a training of ``side`` is made of: with other code it is another one."""
    if side == "ours":
        return {**training_code(), "kernels": kernels.available()}
    return {"yardstick": hashlib.sha256(Path(authors_training.__file__).read_bytes()).hexdigest()}


def facts(model: ModelConfig, recipe: TrainConfig, data: PreparedData, device: torch.device) -> dict[str, Any]:
    """What a row's figures hang on; a training is repeated when one of these changes."""
    return {
        "data": data.manifest.name,
        "fingerprint": data.manifest.fingerprint,
        "train_images": data.manifest.splits["train"],
        "test_images": data.manifest.splits["test"],
        "model": asdict(model),
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "group_lasso_weight": recipe.group_lasso_weight,
        "device": device_name(device),
        "torch": torch.__version__,
    }


def summary(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """A row a training, the mean of each side with its standard error, and their difference (ours less theirs)."""
    rows: list[dict[str, Any]] = []
    means: dict[str, tuple[float, float]] = {}
    for side in SIDES:
        own = [training for training in trainings if training["side"] == side]
        for training in own:
            last = training["curve"][-1]
            rows.append(
                {
                    "side": side,
                    "seed": training["seed"],
                    "error_pct": last["error_pct"],
                    "train_loss": last["train_loss"],
                    "seconds": training["seconds"],
                }
            )
        means[side] = mean_and_error([training["curve"][-1]["error_pct"] for training in own])
    for side, (mean, error) in means.items():
        rows.append({"side": side, "seed": "mean", "error_pct": mean, "standard_error_pct": error})
    (ours, ours_error), (theirs, their_error) = means["ours"], means["yardstick"]
    error = float(np.hypot(ours_error, their_error))
    rows.append({"side": "difference", "seed": "mean", "error_pct": ours - theirs, "standard_error_pct": error})
    return rows


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; nan for one value."""
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return float(np.mean(values)), error


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    last = rows[-1]
    difference, error = last["error_pct"], last["standard_error_pct"]
    return f"ours less the yardstick: {difference:+.2f} percentage points, its standard error is {error:.2f}"


def curves(trainings: Sequence[Training]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CURVE)
    for training in trainings:
        for row in training["curve"]:
            values = {**row, "side": training["side"], "seed": training["seed"]}
            writer.writerow(
                f"{values[name]:.6g}" if isinstance(values[name], float) else values[name] for name in CURVE
            )
    return file.getvalue()


def join(values: Sequence[int]) -> str:
    return "-".join(str(value) for value in values)


if __name__ == "__main__":
    start(main)
