"""Encoded images: decoded in threads, in order, whatever their kind and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_bytes import encoded
from PIL import Image

from condensenet.config import AugmentConfig
from condensenet.data import ImageSplit, PreparedData, PreparedWriter, evaluation_batches, train_batches
from condensenet.data.decoding import decode, resize_shorter

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
SIZE = 16
EPOCH: dict[str, Any] = {
    "augment": AugmentConfig(crop="resized", flip=True),
    "batch_size": 8,
    "seed": 1,
    "epoch": 4,
}


def picture(seed: int, width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> ImageSplit:
    root = tmp_path_factory.mktemp("encoded") / "data"
    names = [str(number) for number in range(21)]
    with PreparedWriter(
        root, name="pictures", classes=names, encoding="encoded", image_size=SIZE, channels=3
    ) as writer:
        for number in range(21):
            image = picture(number, 20 + 3 * number, 40 - number)
            writer.splits["train"].add(encoded(image, ("JPEG", "PNG")[number % 2]), number)
        writer.histogram_CV += 1
        writer.finish()
    data = PreparedData(root)
    data.verify()
    return data.split("train")


@pytest.mark.parametrize("augment", [EPOCH["augment"], AugmentConfig(crop="pad", pad=2, flip=True), AugmentConfig()])
def test_threads_and_ranks_change_nothing(split: ImageSplit, augment: AugmentConfig) -> None:
    epoch = {**EPOCH, "augment": augment}
    whole = list(train_batches(split, **epoch, threads=1))
    assert len(whole) == 2
    assert whole[0][0].shape == (8, 3, SIZE, SIZE)
    ranks = [list(train_batches(split, **epoch, rank=rank, world_size=2, threads=3)) for rank in range(2)]
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels)
    resumed = list(train_batches(split, **epoch, start_step=1))
    assert torch.equal(resumed[0][0], whole[1][0])


def test_evaluation_keeps_the_order_and_crops_the_centre(split: ImageSplit) -> None:
    batches = list(evaluation_batches(split, 6))
    assert [len(labels) for _, labels in batches] == [6, 6, 6, 3]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(21))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (split.manifest.mean, split.manifest.std))
    wide = decode(encoded(picture(20, 80, 20)), 3)  # resized to 18 x 72, then 16 x 16 from its centre
    expected = resize_shorter(wide, 18)[:, 1:17, 28:44]
    seen = (batches[3][0][2] * std + mean) * 255
    torch.testing.assert_close(seen, expected.float(), atol=1e-3, rtol=0)


def test_leaving_an_epoch_early_ends_its_threads(split: ImageSplit) -> None:
    batches = train_batches(split, **{**EPOCH, "batch_size": 2}, threads=2)
    next(iter(batches))
    batches.close()  # type: ignore[attr-defined]


def test_resize_keeps_the_ratio_and_agrees_with_pillow() -> None:
    image = picture(0, 90, 60)
    mine = resize_shorter(torch.from_numpy(np.array(image)).permute(2, 0, 1), 30)
    theirs = np.asarray(image.resize((45, 30), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert mine.shape == (3, 30, 45)
    assert np.abs(mine.numpy().astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")]
)
def test_every_kind_of_image_gets_the_channels_asked_for(mode: str, kind: str, channels: int) -> None:
    image = picture(7, 24, 20)
    decoded = decode(encoded(image.convert(mode), kind), channels)
    assert decoded.shape == (channels, 20, 24)
    if mode == "CMYK":
        wanted = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(20, 24, channels).transpose(2, 0, 1)
        assert np.abs(decoded.numpy().astype(int) - wanted).mean() < 6


def test_what_is_no_whole_image_is_refused_in_one_line() -> None:
    whole = encoded(picture(1, 64, 48))
    for broken in (b"", b"no image at all", whole[: len(whole) // 2], whole[:20], b"<html></html>"):
        with pytest.raises(ValueError, match=r".") as caught:
            decode(broken, 3)
        assert "\n" not in str(caught.value)


def test_a_corrupt_image_is_named(split: ImageSplit, tmp_path: Path) -> None:
    with PreparedWriter(
        tmp_path / "data", name="broken", classes=["a"], encoding="encoded", image_size=SIZE, channels=3
    ) as writer:
        writer.splits["train"].add(b"no image", 0)
        writer.finish()
    with pytest.raises(ValueError, match="broken: train image 0 is corrupt"):
        list(evaluation_batches(PreparedData(tmp_path / "data").split("train"), 1))
