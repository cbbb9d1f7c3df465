"""Prepared images: their one form on disk, how it is written and read, and the batches made of it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condensenet.data.batches import evaluation_batches, steps_per_epoch, train_batches
    from condensenet.data.manifest import Manifest
    from condensenet.data.prepared import ImageSplit, PreparedData
    from condensenet.data.resident import ResidentSplit
    from condensenet.data.writing import PreparedWriter, write_prepared

__all__ = [
    "ImageSplit",
    "Manifest",
    "PreparedData",
    "PreparedWriter",
    "ResidentSplit",
    "evaluation_batches",
    "steps_per_epoch",
    "train_batches",
    "write_prepared",
]

_HOMES = {  # imported when first used: the manifest is read without torch
    "ImageSplit": "prepared",
    "Manifest": "manifest",
    "PreparedData": "prepared",
    "PreparedWriter": "writing",
    "ResidentSplit": "resident",
    "evaluation_batches": "batches",
    "steps_per_epoch": "batches",
    "train_batches": "batches",
    "write_prepared": "writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
