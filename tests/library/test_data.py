"""The prepared form and its batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from condensenet.config import AugmentConfig
from condensenet.data import ImageSplit, PreparedData, train_batches, write_prepared


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 3, 6, 6), dtype=np.uint8)
    labels = np.arange(50) % 5
    splits = {"train": (images[:40], labels[:40]), "test": (images[40:], labels[40:])}
    write_prepared(tmp_path / "data", splits, name="noise", classes=list("abcde"))
    return tmp_path / "data"


@pytest.fixture
def train(root: Path) -> ImageSplit:
    return PreparedData(root).split("train")


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_see_the_global_batch(train: ImageSplit, world_size: int) -> None:
    how = {"augment": AugmentConfig(crop="pad", pad=1, flip=True), "batch_size": 8, "seed": 3, "epoch": 2}
    whole = list(train_batches(train, **how))
    ranks = [list(train_batches(train, **how, rank=r, world_size=world_size, start_step=2)) for r in range(world_size)]
    for step, (images, labels) in enumerate(whole[2:]):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels)
