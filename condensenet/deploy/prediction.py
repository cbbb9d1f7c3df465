"""Predictions for image files by a network in PyTorch or an ONNX file, with the preprocessing that belongs to it.

Shapes: N images, K classes, T best of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from condensenet.data.preprocess import Image, load_images
from condensenet.deploy.onnx_model import OnnxModel
from condensenet.models.condensenet import CondenseNet
from condensenet.preprocessing import Preprocessing

BATCH_SIZE = 32
BATCH_PIXELS = 2**23  # of a batch: its images are 96 MiB, and what a network makes of them many times that


@dataclass(frozen=True)
class Prediction:
    """One class for one image, by softmax over all classes."""

    label: int
    name: str
    probability: float


@torch.inference_mode()
def predict(
    model: CondenseNet | OnnxModel,
    images: Sequence[Image],
    *,
    top: int = 5,
    preprocessing: Preprocessing | None = None,
) -> list[list[Prediction]]:
    """For every image, its ``top`` likeliest classes (all, if there are fewer), the likeliest first.

    ``images`` are paths, contents of image files, or uint8 tensors (C, H, W). They are prepared as ``preprocessing``
    says, by default the model's own, on the CPU, and go through the model in evaluation mode on its device. Raises
    ``ValueError`` for a model without preprocessing, and for images that cannot be decoded; ``OSError`` for files
    that cannot be read.
    """
    if top < 1:
        raise ValueError(f"{top=} is not allowed: it must be 1 or more")
    if isinstance(images, (str, Path, bytes)):
        raise ValueError('images must be a list, for example ["photo.jpg"]')
    preprocessing = preprocessing or preprocessing_of(model)
    predictions = []
    batch_size = max(1, min(BATCH_SIZE, BATCH_PIXELS // preprocessing.image_size**2))
    for first in range(0, len(images), batch_size):
        batch = load_images(images[first : first + batch_size], preprocessing)
        logits_NK = _logits(model, batch)
        if preprocessing.classes and logits_NK.shape[1] != len(preprocessing.classes):
            raise ValueError(
                f"the model has {logits_NK.shape[1]} classes, its preprocessing {len(preprocessing.classes)}"
            )
        values_NT, labels_NT = logits_NK.softmax(dim=1).topk(min(top, logits_NK.shape[1]), dim=1)
        for values, labels in zip(values_NT.tolist(), labels_NT.tolist(), strict=True):
            predictions.append(
                [
                    Prediction(label, preprocessing.class_name(label), value)
                    for value, label in zip(values, labels, strict=True)
                ]
            )
    return predictions


def preprocessing_of(model: CondenseNet | OnnxModel) -> Preprocessing:
    """The model's own; raises ``ValueError`` if it has none."""
    if model.preprocessing is None:
        raise ValueError("the model does not say how images are prepared for it: pass preprocessing=Preprocessing(...)")
    return model.preprocessing


def _logits(model: CondenseNet | OnnxModel, images: torch.Tensor) -> torch.Tensor:
    if isinstance(model, OnnxModel):
        return model(images)
    was_training, weight = model.training, next(model.parameters())
    try:
        return model.eval()(images.to(weight.device, weight.dtype)).float().cpu()
    finally:
        model.train(was_training)
