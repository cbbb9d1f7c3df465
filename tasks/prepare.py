"""The prepare stage: read a study's images from their source, check them, and write the form that later stages read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from condensenet.data import Manifest, write_prepared
from tasks import locks, sources
from tasks import params as parameters
from tasks.arguments import no_arguments
from tasks.console import say
from tasks.errors import UserError, one_line, run_main
from tasks.params import Params
from tasks.sources.base import Source, check_not_empty, split_training_images
from tasks.sources.write_streams import write_streams
from tasks.storage import check_training_root


def main() -> None:
    no_arguments()
    params = parameters.load()
    with locks.shared_machine():
        manifest = prepare(params, params.paths.data)
    say(f"{params.paths.data}: {summary(manifest)}")


def summary(manifest: Manifest) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in manifest.splits.items())
    skipped = f", {len(manifest.corrupt)} corrupt images skipped" if manifest.corrupt else ""
    return f"{counts}{skipped}; fingerprint {manifest.fingerprint[:12]}"


def prepare(params: Params, root: Path) -> Manifest:
    """Prepare the images of ``params.data`` in the folder ``root``; raises ``UserError``."""
    check_training_root(params.ray.storage)  # not hours later, when training starts
    _warn_of_gpus(params)
    source = sources.read(params.data)
    _check_settings(params, len(source.classes))
    check_not_empty(source, allow_empty_classes=params.data.allow_empty_classes)
    train, validation = split_training_images(source.train.labels, params.data)
    with one_line():
        if isinstance(source.train.images, np.ndarray):
            return _write_arrays(params, source, train, validation, root)
        return write_streams(params.study, params.data, source, train, validation, root, ray=params.ray)


def _warn_of_gpus(params: Params) -> None:
    """Say before the work, not after it, that the training which comes next lacks GPUs."""
    if not params.ray.use_gpu or os.environ.get("RAY_ADDRESS"):  # a cluster's are counted when training starts
        return
    import torch

    if (count := torch.cuda.device_count()) < params.ray.min_workers:
        say(f"warning: training needs {params.ray.min_workers} GPUs (ray.use_gpu=true), this machine has {count}")


def _check_settings(params: Params, num_classes: int) -> None:
    """Raise ``UserError`` for a setting whose network does not fit these images."""
    for setting in params.settings.values():
        model = setting.model
        if model.num_classes != num_classes:
            raise UserError(
                f"settings.{setting.name}: num_classes={model.num_classes} is not allowed: the data has {num_classes}"
            )
        if model.in_channels != params.data.channels:
            raise UserError(
                f"settings.{setting.name}: in_channels={model.in_channels} is not allowed: "
                f"data.channels={params.data.channels}"
            )


def _write_arrays(params: Params, source: Source, train: np.ndarray, validation: np.ndarray, root: Path) -> Manifest:
    images, test_images = np.asarray(source.train.images), np.asarray(source.test.images)
    channels, size = images.shape[1:3]
    for key, actual in (("image_size", size), ("channels", channels)):
        if (value := getattr(params.data, key)) != actual:
            raise UserError(f"data: {key}={value} is not allowed with source={params.data.source}: it is {actual}")
    labels = source.train.labels
    splits = {
        "train": (images[train], labels[train]),
        "validation": (images[validation], labels[validation]),
        "test": (test_images, source.test.labels),
    }
    return write_prepared(root, splits, name=params.study, classes=source.classes, source=source.facts)


if __name__ == "__main__":
    run_main(main)
