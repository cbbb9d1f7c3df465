"""Prepare a study's images: read their source, check it, and write the one form that all later stages read."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.data import Manifest, write_prepared
from tasks import params as parameters
from tasks.console import say
from tasks.errors import UserError, run_main
from tasks.params import Params
from tasks.sources.base import Source, check_labels, hold_out

MODULES = {"digits": "digits"}


def main() -> None:
    params = parameters.load()
    manifest = prepare(params, params.paths.data)
    say(f"{params.paths.data}: {summary(manifest)}")


def summary(manifest: Manifest) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in manifest.splits.items())
    left_out = f", {len(manifest.corrupt)} corrupt images left out" if manifest.corrupt else ""
    return f"{counts}{left_out}; fingerprint {manifest.fingerprint[:12]}"


def prepare(params: Params, root: Path) -> Manifest:
    """Prepare the images of ``params.data`` into the folder ``root``; raises ``UserError``."""
    source: Source = import_module(f"tasks.sources.{MODULES[params.data.source]}").read(params.data)
    check_labels(source, allow_empty_classes=False)
    held = hold_out(source.parts["train"].labels, params.data.validation_images, "validation")
    return _write_arrays(params, source, held, root)


def _write_arrays(params: Params, source: Source, held: np.ndarray, root: Path) -> Manifest:
    train, test = source.parts["train"], source.parts["test"]
    images: Any = train.images
    splits: dict[str, tuple[Any, np.ndarray]] = {
        "train": (images[~held], train.labels[~held]),
        "validation": (images[held], train.labels[held]),
        "test": (test.images, test.labels),
    }
    try:
        return write_prepared(root, splits, name=params.study, classes=source.classes, source=source.facts)
    except ValueError as error:
        raise UserError(f"{train.place}: {error}") from None


if __name__ == "__main__":
    run_main(main)
