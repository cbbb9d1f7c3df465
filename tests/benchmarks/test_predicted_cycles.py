"""Predicted cycles: loops found in assembly, the work of a network by hand, and a run for the CPU at hand."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import predicted_cycles
from condensenet import ModelConfig

TEXT = """\
loop_4x3:
.LFB1:
\tldr\tq0, [x1]
.L3:
\tmov\tx2, 0
.L4:
\tfmla\tv1.4s, v0.4s, v2.s[0]
\tfmla\tv2.4s, v0.4s, v2.s[1]
\tcmp\tx3, x4
\tbne\t.L4
\tadd\tx5, x5, 1
\tcbnz\tx5, .L3
\tret
\t.size\tloop_4x3, .-loop_4x3
"""


def test_the_innermost_loop_is_found_without_the_one_around_it() -> None:
    loops = predicted_cycles.innermost_loops(TEXT, predicted_cycles.TARGETS["aarch64"])
    assert [line.split("\t")[1] for line in loops["4x3"]] == ["fmla", "fmla", "cmp", "bne"]
    assert predicted_cycles.count(loops["4x3"], predicted_cycles.TARGETS["aarch64"]) == 2


def test_the_work_of_one_layer_by_hand() -> None:
    """16 input channels of 112 x 112 pixels, a quarter of them kept, 32 outputs, then 8 features from 8 each."""
    config = ModelConfig(block_depths=(1,), growth_rates=(8,), stem="imagenet", num_classes=1000)
    first, second = predicted_cycles.dense_blocks(config, lanes=4)
    assert (first.loop, first.macs, first.idle) == ("clamped", 16 / 4 * 32 * 112**2, 0)
    assert (second.loop, second.macs) == ("spatial_2", 8 * 8 * 9 * 112**2)
    assert predicted_cycles.gathered_vectors(config, lanes=4) == 0  # 8 outputs a group
    wide = replace(config, growth_rates=(64,))
    assert predicted_cycles.gathered_vectors(wide, lanes=4) == 4 * 128 / 4 * 112 * 28
    *_, last = predicted_cycles.dense_blocks(ModelConfig(block_depths=(1,), growth_rates=(8,), stem="imagenet"), 32)
    assert last.idle == pytest.approx(1 - 112 / 128)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the compiler at hand makes no code for x86-64")
@pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("llvm-mca")), reason="there is no gcc or no llvm-mca here"
)
def test_no_loop_is_faster_than_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["predicted_cycles.py", "--target", "x86-64-v3", "--json", str(file)])
    predicted_cycles.main()
    rows = json.loads(file.read_text())
    kinds = {row["loop"].partition("_")[0] for row in rows if "loop" in row}
    assert kinds == {"gather", "pointwise", "clamped", "spatial", "channels"}
    assert all(0 < row["share"] <= 1.01 for row in rows if "share" in row)
    assert {row["network"] for row in rows if "network" in row} == set(predicted_cycles.NETWORKS)
