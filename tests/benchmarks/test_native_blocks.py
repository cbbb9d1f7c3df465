"""benchmarks/native_blocks.py times every block of a network, in every build and vector width asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import native_blocks
from condensenet.deploy.runtime import operator_library

pytestmark = pytest.mark.skipif(operator_library() is None, reason="the native operator is not compiled here")


def test_a_row_for_each_block_build_and_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.json"
    arguments = ["--quick", "--lanes", "8", "4", "--against", str(operator_library()), "--json", str(path)]
    monkeypatch.setattr(native_blocks, "SIZE", 32)
    monkeypatch.setattr(native_blocks, "CONDENSENETS", ("condensenet-74-g8",))
    monkeypatch.setenv("CONDENSENET_LANES", "4")
    monkeypatch.setattr(sys, "argv", ["native_blocks.py", *arguments])
    native_blocks.main()
    rows = json.loads(path.read_text())
    assert [(row["block"], row["library"], row["lanes"]) for row in rows] == [
        (block, library, lanes) for block in range(1, 6) for library in ("this", "other") for lanes in (8, 4)
    ]
    # by hand, block 1: layers of (inputs / 8) * 32 + 4 * 8 * 9 weights, inputs 16, 24, 32, 40; 16x16 pixels
    assert rows[0]["macs"] == ((16 + 24 + 32 + 40) * 4 + 4 * 288) * 256
