"""A dry run on the CPU of what a GPU will measure."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_loading
from benchmarks.gpu_loading import CPU_FED, CPU_LOADER, GPU_FED, GPU_LOADER, STEP
from benchmarks.gpu_targets import Recipe
from benchmarks.pages import speed_tables
from condensenet import ModelConfig, presets

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def test_dry_run_has_a_row_a_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets, "condensenet-50", ModelConfig(block_depths=(1, 1), growth_rates=(4, 4)))
    written: list[int] = []
    write_rows = gpu_loading.write_rows
    monkeypatch.setattr(
        gpu_loading, "write_rows", lambda path, rows: (written.append(len(rows)), write_rows(path, rows))
    )
    monkeypatch.setattr(sys, "argv", ["gpu_loading.py", "--tiny", "--json", str(tmp_path / "rows.json")])
    gpu_loading.main()
    rows = {row["side"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert list(rows) == [STEP, CPU_LOADER, GPU_LOADER, CPU_FED, GPU_FED]
    assert written == [1, 2, 3, 4, 5]
    for side in (GPU_LOADER, GPU_FED):
        assert rows[side]["images_per_s"] is None
        assert rows[side]["note"] == "train.gpu_decoding=true is not allowed on cpu: there is no CUDA GPU"
    assert all(rows[side]["images_per_s"] > 0 for side in (STEP, CPU_LOADER, CPU_FED))
    table = speed_tables.gpu_loading({"gpu_loading": list(rows.values())})
    assert "there is no CUDA GPU" in table


def test_a_fed_step_is_compared_with_the_slower_of_both() -> None:
    sides = gpu_loading.Sides(Namespace(batch=100), None, None, torch.device("cpu"))
    sides.times |= {STEP: [0.1, 0.1], CPU_LOADER: [0.2, 0.2], CPU_FED: [0.25, 0.25], GPU_LOADER: [0.01]}
    sides.waits |= {CPU_FED: [0.5, 0.7]}
    fed = sides.row(CPU_FED)
    assert (fed["images_per_s"], fed["waiting"]) == (400, 0.6)
    assert fed["of_the_slower"] == pytest.approx(0.8)
    assert sides.row(GPU_LOADER)["images_per_s"] == 10_000
    assert "of_the_slower" not in sides.row(STEP)


def test_a_side_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Namespace(batch=2, tiny=True, recipe=Recipe("bf16", cuda_graph=True), steps=1, settle=1)
    sides = gpu_loading.Sides(options, None, None, torch.device("cpu"))
    sides.measure(GPU_FED)
    assert [row["side"] for row in sides.rows()] == [GPU_FED]
    assert "gpu_decoding=true is not allowed with cuda_graph" in sides.rows()[0]["note"]


def test_without_photographs_jpeg_files_are_made(tmp_path: Path) -> None:
    files = gpu_loading.contents(Namespace(tiny=False, images=tmp_path / "none.parquet"))
    assert len(set(files)) == gpu_loading.MADE
    assert 50_000 < sum(map(len, files)) / len(files) < 200_000  # ImageNet's have 107,000


def test_without_a_gpu_only_a_dry_run_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_loading.py", "--quick"])
    with pytest.raises(SystemExit, match="no GPU"):
        gpu_loading.main()
