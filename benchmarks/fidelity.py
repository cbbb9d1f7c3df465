"""Does our training reach the same test error as the authors'? Same images, same initial weights.

    python -m benchmarks.fidelity --json FILE --curves FILE       six trainings, about 15 minutes on two cores
    python -m benchmarks.fidelity --quick                         under 50 seconds; two short trainings each
    python -m benchmarks.fidelity --model condensenet-86 --epochs 300 --train-images 0 --test-images 0 --device cuda

Ours is ``condensenet.training.fit``, theirs is benchmarks/authors_training.py. Network, recipe, images and, for each
seed, initial weights are the same, but each draws batches, crops and flips through its own data pipeline. So single
trainings differ by chance, and the mean test errors over the seeds are compared: their difference beside its standard
error. If both were equal, about one difference in three would exceed one standard error by chance. tests/benchmarks
has the comparison without chance: the same batches give the same weights.

The real images are CIFAR-10 re-encoded as JPEG (quality 75, 4:2:0), so errors are somewhat above the paper's.
A finished training is kept in the folder ``--out`` and not repeated; an interruption costs at most one training.
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

import numpy as np
import torch

from benchmarks import authors_training, images
from benchmarks.reporting import chosen_device, device_name, output_file, parser, start, table, write_rows
from benchmarks.side_by_side import CIFAR_AUGMENT, new_model
from condensenet import ModelConfig, TrainConfig, presets
from condensenet.data import PreparedData
from condensenet.files import write_atomically
from condensenet.interop import authors_state_dict
from condensenet.machine import usable_cores
from condensenet.models import kernels
from condensenet.models.condensing import condensing_stage
from condensenet.training import fit
from condensenet.training.fingerprint import training_code

SIDES = ("ours", "authors")
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
    model = replace(presets.get(options.model, SMALL), num_classes=len(data.manifest.classes))
    sides = [options.only] if options.only else SIDES
    trainings = [one_training(side, seed, model, data, options, device) for seed in options.seeds for side in sides]
    if options.only:
        return
    rows = [{**row, **conditions(model, recipe_of(options), data, device)} for row in summary(trainings)]
    report(rows, options, data, device)
    write_rows(options.json, rows)
    if options.curves:
        write_atomically(options.curves, curves(trainings).encode())


def report(rows: Sequence[dict[str, Any]], options: Namespace, data: PreparedData, device: torch.device) -> None:
    name = options.model or f"{join(SMALL.block_depths)} / {join(SMALL.growth_rates)}"
    print(
        f"{name}, {options.epochs} epochs of {data.manifest.splits['train']} images of {data.manifest.name}, "
        f"{data.manifest.splits['test']} test images, {device_name(device)}"
    )
    print(table(rows, COLUMNS))
    print(verdict(rows))
    if options.quick:
        print("quick: a few steps, still near chance level: it shows that the script runs, and compares nothing")


def arguments() -> Namespace:
    cuda = torch.cuda.is_available()
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(presets), help="default: blocks 4-4-4, growth rates 4-8-16")
    options.add_argument("--epochs", type=int, default=8, help="default: %(default)s")
    options.add_argument("--batch", type=int, default=64, help="default: %(default)s")
    options.add_argument("--lasso", type=float, default=0.0, help="group lasso weight (default: %(default)s)")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    options.add_argument("--train-images", type=int, default=6400, help="0: all (default: %(default)s)")
    options.add_argument("--test-images", type=int, default=4000, help="0: all (default: %(default)s)")
    options.add_argument("--data", type=Path, help="a folder of prepared raw images (default: CIFAR-10 as JPEG)")
    options.add_argument("--device", default="cuda" if cuda else "cpu", help="default: %(default)s")
    options.add_argument("--threads", type=int, default=usable_cores(), help="default: all cores (%(default)s)")
    options.add_argument(
        "--workers", type=int, default=min(8, usable_cores()) if cuda else 0, help="of the authors' data loader"
    )
    options.add_argument("--out", type=Path, default=Path("state/fidelity"), help="working folder (%(default)s)")
    options.add_argument("--only", choices=SIDES, help="train only this side and stop; the other one later")
    options.add_argument("--curves", type=output_file, metavar="FILE", help="write a CSV file with a row per epoch")
    parsed = options.parse_args()
    if parsed.quick:
        vars(parsed).update(QUICK)
    return parsed


def recipe_of(options: Namespace, seed: int = 0) -> TrainConfig:
    return TrainConfig(epochs=options.epochs, batch_size=options.batch, group_lasso_weight=options.lasso, seed=seed)


def image_data(options: Namespace) -> PreparedData:
    """The requested images in full batches: the authors' loop takes a smaller last batch, ours drops it."""
    try:
        full = PreparedData(options.data) if options.data else images.cifar10_jpeg(options.out / "cifar10-jpeg")
    except FileNotFoundError as error:
        if not options.quick:
            sys.exit(f"error: {error}: --data DIR")
        print("CIFAR-10 is missing: random patterns are used instead")
        return images.patterns(options.out / "patterns", options.train_images, options.test_images)
    counts = full.manifest.splits
    train = (options.train_images or counts["train"]) // options.batch * options.batch
    test = options.test_images or counts["test"]
    return images.subset(full, options.out / f"{full.manifest.name}-{train}-{test}", train, test)


def one_training(
    side: str, seed: int, model: ModelConfig, data: PreparedData, options: Namespace, device: torch.device
) -> Training:
    """A training with its curve, read from its file if it has been done before."""
    recipe = recipe_of(options, seed)
    identity = {"side": side, "code": code(side), **conditions(model, recipe, data, device)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = options.out / f"{side}-{seed}-{digest}.json"
    if path.exists():
        return json.loads(path.read_text())
    started = time.monotonic()
    train = train_ours if side == "ours" else train_authors
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


def train_authors(
    model: ModelConfig, data: PreparedData, recipe: TrainConfig, device: torch.device, workers: int
) -> list[dict[str, float]]:
    net = authors_training.AuthorsNet(model, data.manifest.image_size)
    net.load_state_dict(authors_state_dict(new_model(model, recipe.seed)))
    trainer = authors_training.AuthorsTrainer(net, recipe, device)
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
                "train_loss": trainer.losses.mean,  # theirs includes the group lasso
                "error_pct": trainer.error_pct(test_loader),
            }
        )
    return curve


def code(side: str) -> dict[str, Any]:
    """Digests of the code that trains ``side``: after a change of the code the training is repeated."""
    if side == "ours":
        return {**training_code(), "kernels": kernels.available()}
    return {"authors_training": hashlib.sha256(Path(authors_training.__file__).read_bytes()).hexdigest()}


def conditions(model: ModelConfig, recipe: TrainConfig, data: PreparedData, device: torch.device) -> dict[str, Any]:
    """What a row's figures depend on; when one of these changes, the training is repeated."""
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
    """A row for each training, each side's mean with its standard error, and the difference (ours minus theirs)."""
    rows = [
        {
            **{name: training[name] for name in ("side", "seed", "seconds")},
            **{name: training["curve"][-1][name] for name in ("error_pct", "train_loss")},
        }
        for training in sorted(trainings, key=lambda training: SIDES.index(training["side"]))
    ]
    means = {side: mean_and_error([row["error_pct"] for row in rows if row["side"] == side]) for side in SIDES}
    (ours, our_error), (theirs, their_error) = means.values()
    either = None if our_error is None or their_error is None else float(np.hypot(our_error, their_error))
    means["difference"] = (ours - theirs, either)
    for side, (mean, error) in means.items():
        rows.append({"side": side, "seed": "mean", "error_pct": mean, "standard_error_pct": error})
    return rows


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, which one value lacks."""
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return float(np.mean(values)), error


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    last = rows[-1]
    difference, error = last["error_pct"], last["standard_error_pct"]
    known = "unknown: one seed" if error is None else f"{error:.2f}"
    return f"ours minus authors: {difference:+.2f} percentage points, standard error {known}"


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
