"""Prepared images: their one form on disk, how it is written and read, and the batches made of it."""

from condensenet.data.batches import evaluation_batches, steps_per_epoch, train_batches
from condensenet.data.manifest import Manifest
from condensenet.data.prepared import ImageSplit, PreparedData
from condensenet.data.writing import PreparedWriter, write_prepared

__all__ = [
    "ImageSplit",
    "Manifest",
    "PreparedData",
    "PreparedWriter",
    "evaluation_batches",
    "steps_per_epoch",
    "train_batches",
    "write_prepared",
]
