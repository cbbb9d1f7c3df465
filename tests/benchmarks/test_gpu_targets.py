"""A dry run of the GPU targets on the CPU, so the script works when a GPU is available."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace

import pytest
import torch

from benchmarks import gpu_targets
from benchmarks.side_by_side import prepared
from condensenet import ModelConfig, presets

FP32 = gpu_targets.Recipe("fp32")
TINY = ModelConfig(block_depths=(1, 1), growth_rates=(4, 4))


def test_dry_run_has_a_row_a_target(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(presets, "condensenet-50", TINY)
    with prepared(None, 16, 8, 10) as data:
        line = ["--tiny", "--json", str(tmp_path / "rows.json"), "--whole-recipe", str(data.root), "--threads", "1"]
        monkeypatch.setattr(sys, "argv", ["gpu_targets.py", *line])
        gpu_targets.main()
    rows = json.loads((tmp_path / "rows.json").read_text())
    units = ["times", "minutes", "ms", "images/s", "images/s"]
    assert [row["unit"] for row in rows] == [*units, "minutes"] * 2
    assert [(row["precision"], row["cuda_graph"]) for row in rows[::6]] == [("fp32", False), ("bf16", True)]
    assert {row["met"] for row in rows} == {"dry run"}
    assert "dry run" in capsys.readouterr().out


def test_a_row_says_whether_the_target_is_met():
    met = [
        gpu_targets.row("", FP32, measured, "", wanted, "")["met"] for measured, wanted in ((6, 6), (5, 6), (9, -10))
    ]
    assert met == ["yes", "no", "yes"]
    assert gpu_targets.row("", FP32, 11, "", -10, "")["wanted"] == "at most 10"
    assert gpu_targets.row("", FP32, 11, "", -10, "")["met"] == "no"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_only_a_dry_run_is_allowed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_targets.py"])
    with pytest.raises(SystemExit, match="no GPU"):
        gpu_targets.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_quick_without_a_gpu_is_a_dry_run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_targets.py", "--quick"])
    assert gpu_targets.arguments().tiny


def test_a_failure_loses_no_other_row(capsys):
    def breaks(*_: object) -> list:
        raise RuntimeError("no graph\nlong story")

    limit = Namespace(limit_s=float("inf"))
    (row,) = gpu_targets.attempt(breaks, limit, FP32, torch.device("cpu"))
    assert (row["met"], row["measured"], row["note"]) == ("no", None, "failed: no graph")
    assert "long story" in capsys.readouterr().err


def test_a_measurement_without_time_is_left_out_and_says_so(monkeypatch):
    monkeypatch.setitem(gpu_targets.LONGEST_S, "slow", 100.0)
    monkeypatch.setattr(gpu_targets, "STARTED", time.monotonic())

    def slow(*_: object) -> list:
        return [{}]

    attempts = [
        gpu_targets.attempt(slow, Namespace(limit_s=limit), FP32, torch.device("cpu")) for limit in (50.0, 150.0)
    ]
    assert attempts[0][0]["note"] == "left out: no time left"
    assert attempts[1] == [{}]


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("fp32", ("fp32", "none", False)),
        ("bf16,graph", ("bf16", "none", True)),
        ("bf16,default,graph", ("bf16", "default", True)),
        ("bf16,reduce-overhead", ("bf16", "reduce-overhead", False)),
    ],
)
def test_recipes_by_name(text, recipe):
    assert gpu_targets.parse_recipe(text) == recipe


@pytest.mark.parametrize("text", ["fp64", "fp32,fast", "fp32,none,graf", "bf16,reduce-overhead,graph"])
def test_unknown_recipes_are_rejected(text):
    with pytest.raises(ValueError, match=r"is not allowed|graf"):
        gpu_targets.parse_recipe(text)
