"""Prepared images: their form on disk, reading and writing it, and the batches made from it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condensenet.data.batches import evaluation_batches, steps_per_epoch, train_batches
    from condensenet.data.manifest import Manifest
    from condensenet.data.prepared import ImageSplit, PreparedData
    from condensenet.data.resident import ResidentSplit
    from condensenet.data.writing import PreparedWriter, write_prepared

_MODULES = {  # imported on first use: reading a manifest must not wait for torch
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
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
