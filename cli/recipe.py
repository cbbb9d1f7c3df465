"""A network and a recipe that suit a data set: the values that ``condensenet train`` chooses unless they are given.

They are rules of thumb, not results: a study in ``conf/study`` states its own.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.dataset import Dataset
from cli.finished import INITIAL
from condensenet.config import ModelConfig
from condensenet.config.bounds import MAX_BATCH
from condensenet.models.presets import presets
from tasks import paths
from tasks.errors import UserError
from tasks.params import NOT_NAMES
from tasks.plain_yaml import MAX_NAME

LARGE_DATASET = 20_000  # images, from which photographs are used at 224 pixels instead of 128
IMAGES_SHOWN = 60_000  # over the whole training, within these limits of epochs
FEWEST_EPOCHS, MOST_EPOCHS = 30, 40
FINE_TUNING = 3  # times fewer epochs, of a tenth of the learning rate
STEPS_PER_EPOCH = 6  # at least; it limits the batch size
VALIDATION_SHARE, VALIDATION_FROM = 0.1, 200  # of this many training images on


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line gives; None is chosen here."""

    size: int | None = None
    model: str | None = None
    groups: int | None = None
    condensation: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    start: Path | None = None
    workers: int | None = None
    max_corrupt: int = 0
    seed: int = 0


def choose_size(dataset: Dataset) -> int:
    """Small square images as they are, else 32, 64, 128 or (many photographs) 224 pixels."""
    if dataset.square is not None and dataset.square <= 64:
        return dataset.square
    if dataset.shorter_side <= 48:
        return 32
    if dataset.shorter_side <= 160:
        return 64
    return 128 if dataset.train_images < LARGE_DATASET else 224


def choose_network(size: int) -> ModelConfig:
    """CondenseNet-50 for images as small as CIFAR's, the ImageNet network for large ones, one less block between."""
    if size < 16:
        return ModelConfig(block_depths=(2, 2, 2), growth_rates=(8, 16, 32))
    if size < 48:
        return presets["condensenet-50"]
    full = presets["condensenet-74-g4"]
    if size >= 160:
        return full
    return dataclasses.replace(
        full, block_depths=full.block_depths[:4], growth_rates=full.growth_rates[:4], condense_classifier=False
    )


def network(dataset: Dataset, size: int, options: Options, start: ModelConfig | None) -> ModelConfig:
    """The network to train; with ``start`` that of the model to fine-tune. Raises ``ValueError`` as the config does."""
    if start is not None:
        given = {"--model": options.model, "--groups": options.groups, "--condensation": options.condensation}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{wrong[0]} is not allowed with --from, which brings its own network")
        return dataclasses.replace(start, num_classes=len(dataset.classes))
    if options.model is not None and options.model not in presets:
        raise UserError(f"--model {options.model} is not allowed: {', '.join(presets)}")
    base = choose_network(size) if options.model is None else presets[options.model]
    if size < base.min_image_size:
        least, name = base.min_image_size, options.model or "every network here"
        raise UserError(f"images of {size} pixels are too small for {name}: --size {least} or more, or another --model")
    return dataclasses.replace(
        base,
        groups_1x1=options.groups or base.groups_1x1,
        condensation_factor=options.condensation or base.condensation_factor,
        num_classes=len(dataset.classes),
        in_channels=dataset.channels,
    )


def study_name(folder: Path) -> str:
    """A name that a study may have, like the folder's."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_")
    if not name[:1].isalpha() or name.casefold() in (*NOT_NAMES, paths.TABLES.name):
        name = f"images-{name}".strip("-")
    return name[:MAX_NAME]


def parameters(
    name: str, dataset: Dataset, options: Options, config: ModelConfig, size: int, gpus: int, cores: int
) -> dict[str, Any]:
    """The content of ``params.yaml``."""
    fine_tuning = options.start is not None
    workers = options.workers or max(1, gpus)
    images = dataset.train_images
    validation = round(VALIDATION_SHARE * images) if images >= VALIDATION_FROM else 0
    batch_size = options.batch_size or _batch_size(images - validation, workers)
    uniform = dataset.square == size
    setting: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }
    if fine_tuning:
        setting["initial"] = INITIAL
    return {
        "study": name,
        "data": {
            "source": dataset.source,
            "path": str(dataset.path.resolve()),
            "train": dataset.train,
            "test": dataset.test,
            "image_size": size,
            "channels": config.in_channels,
            "shorter_side": None if uniform else 2 * size,
            "validation_images": validation,
            "max_corrupt": options.max_corrupt,
            "augment": {
                "crop": "pad" if uniform else "resized",
                "pad": max(1, size // 8) if uniform else 0,
                "flip": dataset.channels == 3,
            },
        },
        "model": {},
        "train": {
            "epochs": options.epochs or _epochs(images, fine_tuning),
            "batch_size": batch_size,
            "learning_rate": 0.1 * min(batch_size, MAX_BATCH) / 64 / (10 if fine_tuning else 1)
            if options.learning_rate is None
            else options.learning_rate,
            "group_lasso_weight": 1e-5,
            "seed": options.seed,
        },
        "ray": {
            "num_workers": workers,
            "threads_per_worker": max(1, cores // workers),
            "use_gpu": gpus > 0,
        },
        "export": {},
        "evaluate": {},
        "benchmark": {},
        "settings": {f"g{config.groups_1x1}-c{config.condensation_factor}": setting},
    }


def _epochs(images: int, fine_tuning: bool) -> int:
    epochs = min(max(round(IMAGES_SHOWN / images), FEWEST_EPOCHS), MOST_EPOCHS)
    return epochs // FINE_TUNING if fine_tuning else epochs


def _batch_size(images: int, workers: int) -> int:
    """A power of two for each worker, up to 64 in all (256 for many images)."""
    most = 256 if images > LARGE_DATASET else 64
    per_worker = 1
    while 2 * per_worker * workers <= most and 2 * per_worker * workers * STEPS_PER_EPOCH <= images:
        per_worker *= 2
    return per_worker * workers
