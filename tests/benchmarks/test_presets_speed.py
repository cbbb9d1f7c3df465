"""The line through the step times by hand, and a complete run with its plot."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import presets_speed
from condensenet import ModelConfig, presets


def test_line_by_hand():
    """Points (0, 1), (1, 3), (2, 4): slope 1.5, offset 7/6, squared residuals 1/6 of the total 14/3."""
    offset, slope, r2 = presets_speed.line([0, 1, 2], [1, 3, 4])
    assert (offset, slope, r2) == pytest.approx((7 / 6, 1.5, 1 - (1 / 6) / (14 / 3)))


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_script_writes_rows_and_a_plot(tmp_path, monkeypatch, kind):
    for depth, name in enumerate(("condensenet-50", "condensenet-74"), 1):
        monkeypatch.setitem(presets, name, ModelConfig(block_depths=(depth, 1), growth_rates=(4, 4)))
    line = "--models condensenet-50 condensenet-74 --batch 2 --device cpu --rounds 2 --threads 1"
    files = ["--json", str(tmp_path / "rows.json"), "--plot", str(tmp_path / f"plot.{kind}")]
    monkeypatch.setattr(sys, "argv", ["presets_speed.py", *line.split(), *files])
    presets_speed.main()
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["phase"] for row in rows] == ["dense", "dense", "condensed", "condensed"]
    assert rows[2]["macs"] < rows[0]["macs"] < rows[1]["macs"]
    stem, classifier, pixels = 8 * 3 * 9, 16 * 10, (32 * 32, 16 * 16)
    block = [inputs * 16 + 4 * 4 * 9 for inputs in (8, 12)]  # 1x1 of 16 outputs, 3x3 of 4 outputs and 4 groups
    assert rows[0]["macs"] == (stem + block[0]) * pixels[0] + block[1] * pixels[1] + classifier
    start = (tmp_path / f"plot.{kind}").read_bytes()[:20]
    assert start.startswith(b"<?xml" if kind == "svg" else b"\x89PNG")
