"""A tiny training that the tests share: images of stripes, a network of three layers, four epochs of five steps."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from condensenet import CondenseNet, ModelConfig
from condensenet.config import AugmentConfig, TrainConfig
from condensenet.data import PreparedData, write_prepared
from condensenet.training import EpochResult, fit, loop

MODEL = ModelConfig(
    block_depths=(2, 1),
    growth_rates=(4, 8),
    groups_1x1=2,
    groups_3x3=2,
    condensation_factor=4,
    bottleneck=2,
    num_classes=3,
    in_channels=1,
    dropout=0.1,
)
TRAIN = TrainConfig(epochs=4, batch_size=8, group_lasso_weight=1e-4, label_smoothing=0.1, checkpoint_every_steps=3)
AUGMENT = AugmentConfig(crop="pad", pad=1)


def stripes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Three classes that a small network tells apart: bright rows, bright columns, and neither."""
    generator = np.random.default_rng(0)

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        pixels = generator.integers(0, 100, (count, 1, 8, 8))
        pixels[labels == 0, :, 2:4, :] += 150
        pixels[labels == 1, :, :, 2:4] += 150
        return pixels.astype(np.uint8), labels

    return {"train": images(43), "validation": images(20), "test": images(9)}


def write_stripes(root: Path) -> PreparedData:
    write_prepared(root, stripes(), name="stripes", classes=["rows", "columns", "neither"])
    return PreparedData(root)


def new_model(config: ModelConfig = MODEL) -> CondenseNet:
    torch.manual_seed(1)
    return CondenseNet(config)


def bits(model: CondenseNet) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def without_time(history: list[EpochResult]) -> list[dict]:
    return [asdict(replace(row, seconds=0.0)) for row in history]


class Killed(BaseException):
    pass


def train_until(step: int, data, folder: Path, monkeypatch, config: TrainConfig = TRAIN) -> None:
    """Train in ``folder`` and die before step ``step``, wherever that is."""
    original = loop.Trainer.train_step

    def train_step(self, images, labels):
        if self.step >= step:
            raise Killed
        original(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", train_step)
        with pytest.raises(Killed):
            list(fit(new_model(), data, AUGMENT, config, checkpoints=folder))
