"""Training images that their device decodes: the CPU, by the same calls, and a GPU where there is one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_bytes import encoded
from test_data_encoded import EPOCH, SIZE, picture

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig
from condensenet.data import ImageSplit, PreparedData, PreparedWriter, gpu_decoding, train_batches
from condensenet.data.gpu_decoding import GpuDecodedSplit, decode_jpegs, decode_together
from condensenet.models.condensenet import CondenseNet
from condensenet.training import fit
from condensenet.training.fingerprint import differences, fingerprint

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
RESIZED = AugmentConfig(crop="resized", flip=True)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """RGB, grey and CMYK JPEG, and PNG, of 20 x 40 and more pixels."""
    root = tmp_path_factory.mktemp("decoded") / "data"
    kinds = (("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("JPEG", "CMYK"))
    with PreparedWriter(
        root, name="pictures", classes=["a", "b"], encoding="encoded", image_size=SIZE, channels=3
    ) as writer:
        for number in range(21):
            kind, mode = kinds[number % len(kinds)]
            content = encoded(picture(number, 20 + 3 * number, 40 + number).convert(mode), kind)
            writer.splits["train"].add(content, number % 2)
        writer.splits["test"].add(content, 0)
        writer.histogram_CV += 1
        writer.finish()
    return PreparedData(root)


class DecodedHere(GpuDecodedSplit):
    """On any device."""

    def __init__(self, source: ImageSplit, device: torch.device) -> None:
        super(GpuDecodedSplit, self).__init__(source, device)


def levels(images_NCHW: torch.Tensor, split: ImageSplit) -> torch.Tensor:
    """Pixels of normalised images, 0..255."""
    mean_C, std_C = (255 * torch.tensor(values) for values in (split.manifest.mean, split.manifest.std))
    return images_NCHW.cpu() * std_C[:, None, None] + mean_C[:, None, None]


def test_crops_flips_order_and_labels_are_those_of_the_cpu(data: PreparedData) -> None:
    split = data.split("train")
    for start_step in (0, 1):
        ours = list(train_batches(split, **EPOCH, start_step=start_step, threads=1))
        theirs = list(train_batches(DecodedHere(split, CPU), **EPOCH, start_step=start_step, threads=3))
        assert len(theirs) == len(ours) == 2 - start_step
        for (our_images, our_labels), (images, labels) in zip(ours, theirs, strict=True):
            assert torch.equal(labels, our_labels)
            assert (levels(images, split) - levels(our_images, split)).abs().max() < 1.01  # rounded once, not twice


def test_one_image_that_the_device_refuses_costs_no_other(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from the CPU; the others from the device, alone as together."""
    split = data.split("train")
    whole = list(train_batches(DecodedHere(split, CPU), **EPOCH, threads=1))
    asked: list[int] = []

    def without_one(contents: list[np.ndarray], channels: int, device: torch.device) -> list[torch.Tensor]:
        asked.append(len(contents))
        if any(np.array_equal(content, split.encoded(3)) for content in contents):
            raise RuntimeError("unsupported")
        return decode_jpegs(contents, channels, device)

    monkeypatch.setattr(gpu_decoding, "decode_jpegs", without_one)
    contents = [split.encoded(index) for index in range(8)]
    missing = [image is None for image in decode_together(contents, 3, CPU)]
    assert missing == [False, False, True, True, False, False, True, False]  # PNG, the refused one, PNG
    assert asked == [6, 1, 1, 1, 1, 1, 1]
    again = list(train_batches(DecodedHere(split, CPU), **EPOCH, threads=1))
    assert all(
        torch.equal(*pair) for pair in zip(*([images for images, _ in run] for run in (whole, again)), strict=True)
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
@pytest.mark.parametrize("at", [8, 1])  # while images are decoded together, or alone after one that is refused
def test_what_the_device_lacks_is_no_image_s_fault(error: type, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(contents: list[np.ndarray], channels: int, device: torch.device) -> list[torch.Tensor]:
        raise error("the device is at its end") if len(contents) == at else RuntimeError("unsupported")

    monkeypatch.setattr(gpu_decoding, "decode_jpegs", failing)
    content = np.frombuffer(encoded(picture(0, 20, 40), "JPEG"), dtype=np.uint8)
    with pytest.raises(error, match="at its end"):
        decode_together([content] * 8, 3, CPU)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_decoder_that_works_is_accepted(channels: int) -> None:
    gpu_decoding.check_decoder(channels, CPU)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (RuntimeError, ValueError, r"^train\.gpu_decoding=true is not allowed: .* no JPEG on cuda: no nv$"),
        (torch.OutOfMemoryError, torch.OutOfMemoryError, "^no nv"),
    ],
)
def test_without_a_decoder_no_training_begins(
    data: PreparedData, error: type, expected: type, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> list[torch.Tensor]:
        raise error("no nv\nand a stack of C++")

    monkeypatch.setattr(gpu_decoding, "decode_jpegs", missing)
    with pytest.raises(expected, match=message):
        GpuDecodedSplit(data.split("train"), "cuda", RESIZED)


def test_a_corrupt_image_is_named(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    split = data.split("train")
    encoded_whole = split.encoded
    monkeypatch.setattr(split, "encoded", lambda index: encoded_whole(index)[: 100 if index == 5 else None])
    with pytest.raises(ValueError, match="pictures: train image 5 is corrupt"):
        list(train_batches(DecodedHere(split, CPU), **{**EPOCH, "batch_size": len(split)}, threads=1))


def test_no_training_goes_on_with_the_other_decoder() -> None:
    model, train = ModelConfig(block_depths=(1,), growth_rates=(4,)), TrainConfig()
    before, now = (fingerprint(model, replace(train, gpu_decoding=on), RESIZED, "data") for on in (False, True))
    assert differences(now, before) == "train.gpu_decoding was False, is True"


def test_without_a_gpu_one_line_says_so(data: PreparedData) -> None:
    config = ModelConfig(block_depths=(1, 1), growth_rates=(4, 4), num_classes=2)
    train = TrainConfig(epochs=1, batch_size=8, gpu_decoding=True)
    with pytest.raises(ValueError, match=r"^train\.gpu_decoding=true is not allowed on cpu: there is no CUDA GPU$"):
        next(fit(CondenseNet(config), data, RESIZED, train))


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (AugmentConfig(flip=True), "augment.crop='none': only with 'resized'"),
        (replace(RESIZED, randaugment=2), "augment.randaugment=2: only with 0"),
    ],
)
def test_augmentation_of_the_cpu_is_refused(augment: AugmentConfig, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"train.gpu_decoding=true is not allowed with {message}")):
        augment.check_gpu_decoding()


@pytest.mark.parametrize("other", [{"cuda_graph": True}, {"compile": "reduce-overhead"}])
def test_captured_graphs_are_refused(other: dict) -> None:
    with pytest.raises(ValueError, match="gpu_decoding=true is not allowed with cuda_graph or compile"):
        TrainConfig(gpu_decoding=True, **other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_the_views_are_those_of_the_cpu(data: PreparedData, tmp_path: Path) -> None:
    """nvJPEG's pixels differ by some levels, in every image by few on average."""
    split = data.split("train")
    gpu = list(train_batches(GpuDecodedSplit(split, "cuda", RESIZED), **EPOCH))
    for (images, labels), (on_gpu, labels_there) in zip(train_batches(split, **EPOCH), gpu, strict=True):
        assert on_gpu.is_cuda
        assert torch.equal(labels, labels_there.cpu())
        assert (levels(images, split) - levels(on_gpu, split)).abs().mean(dim=(1, 2, 3)).max() < 4
