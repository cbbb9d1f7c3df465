"""A training that takes as many workers as there is room for."""

from __future__ import annotations

import json
from pathlib import Path

from trainings import Checkout, finish, history, weights


def test_as_many_workers_train_as_can_divide_a_batch(tmp_path: Path, checkout: Path, uninterrupted: Path) -> None:
    """Three workers of which one is idle: a batch has eight images. So the bits are those of two."""
    folder = Checkout(tmp_path / "checkout", checkout, f"sqlite:///{tmp_path}/mlflow.db", num_workers=[1, 3])
    finish(folder.start())
    assert json.loads((folder.out / "run.json").read_text())["environment"]["processes"] == 2
    assert json.loads((folder.out / "metrics.json").read_text())["num_workers"] == 2
    assert weights(folder.out) == weights(uninterrupted)
    assert history(folder.out) == history(uninterrupted)
