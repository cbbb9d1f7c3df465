"""The throughput script: schedules, rows, rounds, and a complete run with a tiny network."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch

from benchmarks import reporting, side_by_side, train_throughput
from benchmarks.side_by_side import StepTime
from condensenet import ModelConfig, TrainConfig, presets
from condensenet.models.condensing import condensing_stage

TINY = ModelConfig(block_depths=(1, 1), growth_rates=(4, 4), num_classes=3)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_shares_are_those_of_the_condensing_schedule(factor):
    config = ModelConfig(block_depths=(1,), growth_rates=(8,), condensation_factor=factor)
    counts = [0] * factor
    moments = 10_080  # divisible by every number of stages here
    for moment in range(moments):
        counts[condensing_stage(moment / moments, factor - 1)] += 1
    assert train_throughput.stage_shares(config) == pytest.approx([count / moments for count in counts])


def test_rows_by_hand():
    """Two rounds; the schedule is half a second and a half of stage 2's figures and half of stage 3's."""
    measured = {
        2: {
            "ours": [StepTime(1.0, 0.5), StepTime(1.0, 0.0)],
            "kernels_off": [StepTime(2.0, 0.0), StepTime(2.0, 0.0)],
            "authors": [StepTime(3.0, 0.0), StepTime(3.0, 0.0)],
        },
        3: {
            "ours": [StepTime(0.5, 0.0), StepTime(0.5, 0.0)],
            "kernels_off": [StepTime(0.5, 0.0), StepTime(0.5, 0.0)],
            "authors": [StepTime(3.0, 3.0), StepTime(3.0, 3.0)],
        },
    }
    rows = train_throughput.rows_of(measured, [1 / 6, 1 / 6, 1 / 6, 0.5], batch_size=6)
    assert [row["phase"] for row in rows] == ["condensing stage 2", "optimization", "schedule"]
    assert [row["ratio"] for row in rows] == pytest.approx([3, 6, 4])
    assert [row["ours_images_per_s"] for row in rows] == pytest.approx([6, 12, 8])
    assert [row["authors_images_per_s"] for row in rows] == pytest.approx([2, 2, 2])
    assert [row["kernels_ratio"] for row in rows] == pytest.approx([2, 1, 1.25 / 0.75])
    assert rows[0]["ours_data_pct"] == pytest.approx(25)
    assert rows[1]["authors_data_pct"] == pytest.approx(100)


def test_schedule_weighs_each_stage_by_its_share():
    step_s = {0: 1.0, 1: 2.0, 2: 3.0, 3: 10.0}
    assert train_throughput.schedule_seconds(step_s, [0.1, 0.2, 0.2, 0.5]) == pytest.approx(6.1)
    assert train_throughput.schedule_seconds({0: 5.0}, [1.0]) == 5


class Counting:
    def __init__(self, name: str, calls: list[str], seconds: float = 0.0) -> None:
        self.name, self.calls, self.seconds = name, calls, seconds

    def go_to(self, progress: float) -> None: ...

    def step(self) -> float:
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return 0.0


def test_every_other_round_goes_backwards():
    calls: list[str] = []
    pair = [Counting("a", calls), Counting("b", calls)]
    times = side_by_side.time_alternately(pair, rounds=2, steps=2, settle=1, device=torch.device("cpu"))
    assert "".join(calls) == "aaabbbbbbaaa"
    assert [len(own) for own in times] == [2, 2]


def test_rounds_end_before_the_deadline_but_there_is_one():
    slow = [Counting("a", [], 0.01)]
    cpu = torch.device("cpu")
    assert len(side_by_side.time_alternately(slow, 100, 1, 0, cpu, until=time.monotonic() - 1)[0]) == 1
    assert 1 <= len(side_by_side.time_alternately(slow, 100, 1, 0, cpu, until=time.monotonic() + 0.05)[0]) <= 4


def test_both_trainings_prune_the_same_at_each_stage():
    config = TrainConfig(batch_size=4, epochs=60)
    with side_by_side.prepared(None, 16, 8, 3) as data:
        model = side_by_side.new_model(TINY)
        cpu = torch.device("cpu")
        theirs = side_by_side.AuthorsTraining(model, data, config, cpu, workers=0)
        ours = side_by_side.OurTraining(model, data, config, cpu)
        for progress, dropped in ((0.1, 0), (0.2, 1), (0.4, 2), (0.9, 3)):
            for side in (ours, theirs):
                side.go_to(progress)
                for _ in range(5):  # across the end of an epoch of four steps
                    side.step()
            for layer in theirs.net.learned():
                assert (layer._mask == 0).float().mean() == dropped / 4
            assert {layer.condensing_stage for layer in ours.trainer.model.learned_layers()} == {dropped}


def test_the_script_prints_and_writes_its_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(presets, "condensenet-50", TINY)
    path = tmp_path / "rows.json"
    line = (
        f"--model condensenet-50 --batch 4 --device cpu --images 16 --image-size 8 --rounds 2 --threads 1 --json {path}"
    )
    monkeypatch.setattr(sys, "argv", ["train_throughput.py", *line.split()])
    train_throughput.main()
    rows = json.loads(path.read_text())
    stages = [f"condensing stage {stage}" for stage in range(3)]
    assert [row["phase"] for row in rows] == [*stages, "optimization", "schedule"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["ours_images_per_s"] / row["authors_images_per_s"])
        assert row["model"] == "condensenet-50"
        assert row["device"] == reporting.device_name(torch.device("cpu"))
    printed = capsys.readouterr().out
    assert all(stage in printed for stage in stages)


def test_table_aligns_and_shows_what_is_missing():
    text = reporting.table([{"phase": "a", "x": 1234.5}, {"phase": "bb", "x": None}], ("phase", "x"))
    assert text.split("\n") == ["phase     x", "a      1234", "bb        -"]
