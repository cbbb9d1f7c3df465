"""What a checkpoint's trainer must hold to be resumed: a file that someone else wrote may fit by its name alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from condensenet.config.checks import require
from condensenet.models.condensenet import CondenseNet
from condensenet.models.schema import check_like, check_ranges
from condensenet.text import shown
from condensenet.training.history import EpochResult


def check_trainer(
    saved: Any, example: Mapping[str, Any], model: CondenseNet, steps_per_epoch: int, epochs: int
) -> None:
    """Raise ``ValueError``, which names the entry, unless ``saved`` can be the state of a trainer of ``model``.

    ``example`` is the state of such a trainer at any step.
    """
    require(isinstance(saved, Mapping), f"trainer is a {type(saved).__name__}, not a mapping")
    check_like("trainer", {**saved, "history": []}, {**example, "history": []})
    check_ranges("trainer.model", model, saved["model"])
    step, last = saved["step"], steps_per_epoch * epochs
    require(step <= last, f"trainer.step={shown(step)} is not allowed: the training has {last} steps")
    rows, epoch = saved.get("history"), step // steps_per_epoch
    fits = isinstance(rows, list) and len(rows) in (epoch, epoch - 1)
    require(fits, f"trainer.history does not have a row for each of the {epoch} epochs done")
    for number, row in enumerate(rows):
        _check_row(f"trainer.history.{number}", row, number + 1)


def _check_row(name: str, row: Any, epoch: int) -> None:
    """The figures of an epoch; a loss may well be infinite, but not an integer that no float can hold."""
    names = {field.name for field in fields(EpochResult)}
    require(
        isinstance(row, Mapping) and row.keys() == names, f"{name} does not have the keys {', '.join(sorted(names))}"
    )
    for key, value in row.items():
        number = type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)
        require(number, f"{name}.{key}={shown(value)} is not allowed: it must be a number")
    fits = type(row["epoch"]) is int and row["epoch"] == epoch
    require(fits, f"{name}.epoch={shown(row['epoch'])} is not allowed: it is epoch {epoch}")
