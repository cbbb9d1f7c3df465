"""The fidelity script: statistics by hand, the choice of images, and a complete run that is then resumed."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
from training_example import write_stripes

from benchmarks import fidelity, images
from condensenet import ModelConfig


def training(side: str, seed: int, error_pct: float) -> dict:
    row = {"epoch": 1, "condensing_stage": 3, "train_loss": 2.0, "error_pct": error_pct}
    return {"side": side, "seed": seed, "seconds": 1.0, "curve": [{**row, "error_pct": 99.0}, row]}


def test_summary_by_hand():
    """Errors 1, 2, 3: mean 2, deviation 1, standard error 1 / sqrt(3); 2, 5, 8: mean 5, standard error sqrt(3)."""
    trainings = [training("ours", seed, 1.0 + seed) for seed in range(3)]
    trainings += [training("authors", seed, 2.0 + 3 * seed) for seed in range(3)]
    rows = fidelity.summary(trainings)
    assert [row["error_pct"] for row in rows] == pytest.approx([1, 2, 3, 2, 5, 8, 2, 5, -3])
    assert [row["standard_error_pct"] for row in rows[6:]] == pytest.approx([3**-0.5, 3**0.5, (1 / 3 + 3) ** 0.5])
    assert [row["side"] for row in rows[6:]] == ["ours", "authors", "difference"]


def test_one_seed_has_no_standard_error():
    rows = fidelity.summary([training("ours", 0, 1.0), training("authors", 0, 3.0)])
    assert [row["standard_error_pct"] for row in rows[2:]] == [None] * 3
    assert fidelity.verdict(rows) == "ours minus authors: -2.00 percentage points, standard error unknown: one seed"
    json.dumps(rows, allow_nan=False)


def test_a_subset_has_equally_many_images_of_each_class(tmp_path):
    full = write_stripes(tmp_path / "full")
    subset = images.subset(full, tmp_path / "subset", train_images=10, test_images=3)
    split = subset.split("train")
    assert np.bincount(split.labels).tolist() == [4, 3, 3]
    assert np.array_equal(split.raw(np.arange(10)), full.split("train").raw(np.arange(10)))
    assert subset.manifest.mean != full.manifest.mean
    with pytest.raises(ValueError, match="class 0 of test has 3"):
        images.subset(full, tmp_path / "subset", train_images=10, test_images=10)


def test_both_sides_learn_and_a_finished_training_is_not_repeated(tmp_path, monkeypatch, capsys):
    images.patterns(tmp_path / "data", 320, 100)
    model = ModelConfig(block_depths=(1, 1), growth_rates=(4, 4), groups_1x1=2, groups_3x3=2, condensation_factor=2)
    monkeypatch.setattr(fidelity, "SMALL", model)
    line = f"--data {tmp_path}/data --train-images 320 --test-images 100 --epochs 3 --batch 32 --device cpu --seeds 0 1"
    line += f" --out {tmp_path}/out --threads 1 --json {tmp_path}/rows.json --curves {tmp_path}/curves.csv"
    monkeypatch.setattr(sys, "argv", ["fidelity.py", *line.split()])
    fidelity.main()
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["side"], row["seed"]) for row in rows[:4]] == [(s, n) for s in fidelity.SIDES for n in (0, 1)]
    with (tmp_path / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert [row["epoch"] for row in curves] == ["1", "2", "3"] * 4
    assert [row["condensing_stage"] for row in curves] == ["0", "1", "1"] * 4
    losses = [float(row["train_loss"]) for row in curves]
    assert all(losses[first] > losses[first + 2] for first in range(0, 12, 3))
    (finished,) = (tmp_path / "out").glob("ours-1-*.json")
    finished.unlink()
    capsys.readouterr()
    fidelity.main()
    again = json.loads((tmp_path / "rows.json").read_text())
    assert [row["error_pct"] for row in again] == [row["error_pct"] for row in rows]
    assert capsys.readouterr().out.count(" in ") == 1
