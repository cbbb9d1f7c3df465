"""The evaluation view takes the pixels that torchvision's ``Resize(256)`` and ``CenterCrop(224)`` take."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from condensenet.data import PreparedData, PreparedWriter, evaluation_batches
from condensenet.data.decoding import decode, evaluation_view
from condensenet.data.preprocess import load_images
from condensenet.preprocessing import Preprocessing

STANDARD = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
SIZES = [  # width, height; 375 x 500 is ImageNet's most frequent one
    (500, 375), (375, 500), (500, 333), (333, 499), (301, 299), (257, 255), (256, 256), (224, 224), (225, 223),
    (256, 400), (401, 256), (97, 61), (61, 97), (1023, 257), (300, 1999), (1, 40), (639, 427),
]  # fmt: skip


def photograph(width: int, height: int) -> Tensor:
    coarse = np.random.default_rng(width * height).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    grain = np.random.default_rng(width).integers(-20, 21, smooth.shape)
    return torch.from_numpy((smooth + grain).clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_pixel_is_torchvisions(width: int, height: int) -> None:
    image = photograph(width, height)
    assert torch.equal(evaluation_view(image, 224), STANDARD(image))


def test_every_pixel_of_real_photographs_is_torchvisions(shared: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(shared / "data/imagenet-sample-330.parquet").read().column("image").to_pylist()
    images = [decode(row["bytes"], 3) for row in rows[::6]]
    assert len({image.shape for image in images}) > 10
    for image in images:
        assert torch.equal(evaluation_view(image, 224), STANDARD(image))


@pytest.mark.parametrize("others", [False, True])
def test_images_are_taken_as_they_are_only_where_all_have_the_inputs_size(tmp_path: Path, others: bool) -> None:
    sizes = [(24, 24), (24, 24), (30, 24) if others else (24, 24)]
    with PreparedWriter(
        tmp_path / "data", name="x", classes=["a"], encoding="encoded", image_size=24, channels=3
    ) as writer:
        for width, height in sizes:
            buffer = io.BytesIO()
            Image.fromarray(photograph(width, height).permute(1, 2, 0).numpy()).save(buffer, "PNG")
            writer.splits["train"].add(buffer.getvalue(), 0, (height, width))
        writer.histogram_CV += 1
        writer.finish()
    data = PreparedData(tmp_path / "data")
    images, _ = next(evaluation_batches(data.split("train"), 3))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.manifest.mean, data.manifest.std))
    first = ((images[0] * std + mean) * 255).round().to(torch.uint8)
    image = photograph(24, 24)
    assert torch.equal(first, evaluation_view(image, 24) if others else image)


@pytest.mark.parametrize("size", [(112, 112), (128, 128), (150, 300), (151, 301), (300, 201), (60, 90)])
def test_the_program_for_a_board_sees_the_same_pixels(size: tuple[int, int], checkout: Path, tmp_path: Path) -> None:
    """But for rounding: Pillow resizes there. A crop that is one pixel off, or not resized, differs far more."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
    board = runpy.run_path(str(checkout / "docs/board_predict.py"))
    path = tmp_path / "photo.png"
    Image.fromarray(photograph(*size).permute(1, 2, 0).numpy()).save(path)
    preprocessing = Preprocessing(image_size=112, resize_shorter=128, channels=3, mean=(0,) * 3, std=(1 / 255,) * 3)
    theirs = board["prepare"](path, preprocessing.as_dict())
    assert np.abs(theirs - load_images([path], preprocessing).numpy()).max() < 2
