"""docs/LIBRARY.md and the Python of README.md: every block runs, one after the other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.exporting import write
from condensenet import ModelConfig, Preprocessing, convert, create_model, load, operator_library, predict, save_model
from tasks import params
from tasks.prepare import prepare

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
CONFIG = ModelConfig(block_depths=(1, 1, 1), growth_rates=(8, 8, 8), num_classes=3, condensation_factor=2)


@pytest.fixture
def workspace(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page has its readers make: a model of photographs, a photograph, and the prepared digits."""
    monkeypatch.chdir(tmp_path)
    prepare(params.load(checkout / "params.yaml"), tmp_path / "out/digits/data")
    torch.manual_seed(4)  # the classes of the picture, cropped and squashed, are far apart
    model = create_model("condensenet-50", **dataclasses.asdict(CONFIG)).eval()
    model.condense_to(model.num_condensing_stages)
    model.preprocessing = Preprocessing(
        image_size=16, resize_shorter=18, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, classes=("cat", "dog", "owl")
    )
    (tmp_path / "runs/photos").mkdir(parents=True)
    save_model(model, tmp_path / "runs/photos/model.pt")
    write(convert(model), tmp_path / "runs/photos/model.onnx", "lowered", 16)
    Image.fromarray(wide_picture()).save(tmp_path / "holiday.jpg", quality=95)
    return tmp_path


def wide_picture() -> np.ndarray:
    """Noise between two white margins: the network takes it for another class if it is squashed, not cropped."""
    picture_HWC = np.full((20, 60, 3), 255, dtype=np.uint8)
    picture_HWC[:, 20:40] = np.random.default_rng(0).integers(0, 128, (20, 20, 3))
    return picture_HWC


@pytest.mark.parametrize("page", [pytest.param("docs/LIBRARY.md", marks=pytest.mark.slow), "README.md"])
def test_every_block_runs(checkout: Path, workspace: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    if operator_library() is None:
        pytest.skip("the native operator is not compiled here")
    blocks = BLOCK.findall((checkout / page).read_text())
    assert blocks
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        variables: dict[str, object] = {}
        for block in blocks:
            exec(compile(block, page, "exec"), variables)
    finally:
        torch.set_num_threads(threads)
    output = capsys.readouterr().out
    assert any(name in output for name in ("cat", "dog", "owl"))
    if page == "docs/LIBRARY.md":
        assert "paper_flops=65816394" in output
        best = predict(load("runs/photos/model.onnx"), ["holiday.jpg"], top=1)[0][0]
        assert f"['{best.name}']\n" in output  # of ONNX Runtime alone
