"""Small networks for the emulated machine, with all that exported files have to get right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from condensenet import CondenseNet, ModelConfig, convert

TOLERANCE = 1e-5  # of the largest logit
SMALL = {"block_depths": (2, 2), "growth_rates": (8, 16), "num_classes": 10}
NETWORKS = {  # and the size of its images
    "g4-c4": (ModelConfig(**SMALL, groups_1x1=4, condensation_factor=4), (16, 16)),
    "g2-c4": (ModelConfig(**SMALL, groups_1x1=2, groups_3x3=2, condensation_factor=4), (9, 13)),
    "g8-c2-imagenet": (
        ModelConfig(
            **SMALL, groups_1x1=8, groups_3x3=8, condensation_factor=2, stem="imagenet", condense_classifier=True
        ),
        (33, 32),
    ),
}


def condensed(config: ModelConfig) -> CondenseNet:
    """In training form, with batch norms that hide nothing: negative, zero and tiny scales."""
    torch.manual_seed(0)
    model = CondenseNet(config)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.normal_()
            norm.weight.data[::7] = 0.0
            norm.weight.data[1::11] = 1e-30
            norm.bias.data.normal_(std=0.3)
            norm.running_mean.normal_(std=0.3)
            norm.running_var.uniform_(0.5, 1.5)
    model.condense_to(model.num_condensing_stages)
    return model.eval()


def write_references(folder: Path) -> Iterator[tuple[str, CondenseNet, tuple[int, int]]]:
    """Name, grouped form and image size (H, W) of each network, once its images and PyTorch's logits are in ``folder``.

    ``<name>.npy`` holds three images, ``<name>.expected.npy`` the logits of the training form.
    """
    for name, (config, size) in NETWORKS.items():
        model, images = condensed(config), torch.randn(3, 3, *size)
        np.save(folder / f"{name}.npy", images.numpy())
        with torch.inference_mode():
            np.save(folder / f"{name}.expected.npy", model(images).numpy())
        yield name, convert(model), size


def assert_equal_logits(folder: Path, name: str, form: str) -> None:
    """The logits of ``<name>.<form>.onnx`` are PyTorch's but for rounding."""
    expected, actual = np.load(folder / f"{name}.expected.npy"), np.load(folder / f"{name}.{form}.logits.npy")
    assert actual.shape == expected.shape == (3, 10)
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max(), form
