"""The views take torchvision's pixels: those of ``Resize(256)`` and ``CenterCrop(224)``, and of resized crops."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_bytes import encoded
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import resized_crop

from condensenet.data import PreparedData, PreparedWriter, decoding, evaluation_batches
from condensenet.data.augment import resized_crop_box, resized_crop_uniforms
from condensenet.data.decoding import decode, evaluation_view, resize_shorter, training_view
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


@pytest.mark.parametrize(("width", "height"), [*SIZES, (40, 1), (2, 79), (79, 2), (5, 150), (31, 30)])
@pytest.mark.parametrize("at_once", [1, 3_000, 25_000])
def test_a_view_made_of_strips_has_the_same_pixels(
    width: int, height: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photograph(width, height)
    rows, columns = resize_shorter(image, 40).shape[1:]
    top, left = round((rows - 33) / 2), round((columns - 33) / 2)
    monkeypatch.setattr(decoding, "MAX_AT_ONCE", at_once)
    strips = evaluation_view(image, 33, 40)
    assert torch.equal(strips, resize_shorter(image, 40)[:, top : top + 33, left : left + 33])


@pytest.mark.parametrize("size", [(300, 40), (1, 40)])
def test_a_view_keeps_nothing_else_in_memory(size: tuple[int, int]) -> None:
    view = evaluation_view(photograph(*size), 32)
    assert view.untyped_storage().nbytes() == view.numel() == 3 * 32 * 32


PEAK = """
import resource, sys, torch
from condensenet.data.decoding import evaluation_view
peak_mib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
evaluation_view(torch.zeros(3, 60, 60, dtype=torch.uint8), 32)
before = peak_mib()
for size in (1, 40), (40, 1):
    view = evaluation_view(torch.zeros(3, *size, dtype=torch.uint8), 1024)
    assert view.shape == (3, 1024, 1024), view.shape
print(peak_mib() - before)
"""


def test_a_long_image_takes_no_more_memory_than_twice_a_square_one() -> None:
    """It is 1170 x 46800 pixels after resizing: 164 MB, and torch needs as much again and a third for itself."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 350


def test_every_pixel_of_a_training_crop_is_torchvisions(shared: Path) -> None:
    """Of torchvision's crop and resize for the same box."""
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(shared / "data/imagenet-sample-330.parquet").read().column("image").to_pylist()
    images = [decode(row["bytes"], 3) for row in rows[::8]]
    for image, uniforms_A4 in zip(images, resized_crop_uniforms(np.arange(len(images)), 0, 0), strict=True):
        box = resized_crop_box(*image.shape[1:], uniforms_A4)
        assert torch.equal(training_view(image, 224, uniforms_A4), resized_crop(image, *box, size=[224, 224]))


@pytest.mark.parametrize("others", [False, True])
def test_images_are_taken_as_they_are_only_where_all_have_the_inputs_size(tmp_path: Path, others: bool) -> None:
    sizes = [(24, 24), (24, 24), (30, 24) if others else (24, 24)]
    with PreparedWriter(
        tmp_path / "data", name="x", classes=["a"], encoding="encoded", image_size=24, channels=3
    ) as writer:
        for width, height in sizes:
            image = Image.fromarray(photograph(width, height).permute(1, 2, 0).numpy())
            writer.splits["train"].add(encoded(image, "PNG"), 0, (height, width))
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
