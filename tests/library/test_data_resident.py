"""Images that reside on a device give the batches of those on disk, to the bit; the CPU and meta devices stand in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_bytes import encoded
from networks import share_of_examples
from PIL import Image
from training_example import TRAIN, bits, new_model, without_time, write_stripes

from condensenet.config import AugmentConfig
from condensenet.data import (
    ImageSplit,
    PreparedData,
    PreparedWriter,
    ResidentSplit,
    evaluation_batches,
    train_batches,
    write_prepared,
)
from condensenet.data import resident as resident_module
from condensenet.data.resident import StreamedSplit, crop_and_flip, split_for_device
from condensenet.data.writing import histogram
from condensenet.training import fit, loop
from condensenet.training.evaluation import evaluation_batch_size

Batches = list[tuple[torch.Tensor, torch.Tensor]]
AUGMENTS = [
    AugmentConfig(crop=crop, pad=pad, flip=flip)
    for crop, pad in (("none", 0), ("pad", 1), ("pad", 4))
    for flip in (False, True)
]
EPOCH: dict[str, Any] = {"augment": AUGMENTS[-1], "batch_size": 12, "seed": 5, "epoch": 3}


def noise(root: Path, channels: int, size: int) -> PreparedData:
    images = np.random.default_rng(size).integers(0, 256, (64, channels, size, size), dtype=np.uint8)
    labels = np.arange(64)  # every label names one image
    splits = {"train": (images[:45], labels[:45]), "test": (images[45:], labels[45:])}
    write_prepared(root, splits, name="noise", classes=[str(label) for label in labels])
    return PreparedData(root)


@pytest.fixture(scope="module", params=[(1, 5), (3, 7), (3, 8)], ids=str)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return noise(tmp_path_factory.mktemp("prepared") / "data", *request.param)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload in pieces, and an epoch in chunks of two batches with one left over."""
    monkeypatch.setattr(resident_module, "UPLOAD_BYTES", 1000)
    monkeypatch.setattr(resident_module, "CHUNK_BYTES", 2 * 12 * 4 * 3 * 7 * 7)


def assert_same(resident: Batches, stored: Batches) -> None:
    assert len(resident) == len(stored)
    for (images, labels), (expected, expected_labels) in zip(resident, stored, strict=True):
        assert torch.equal(images.view(torch.int32), expected.view(torch.int32))  # the bits: -0.0 is not 0.0
        assert torch.equal(labels, expected_labels)
        assert images.is_contiguous(memory_format=torch.channels_last)  # as ``to_device`` would make them


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_training_batches_are_those_of_the_disk_to_the_bit(data: PreparedData, augment: AugmentConfig) -> None:
    stored = data.split("train")
    resident = ResidentSplit(stored, "cpu")
    for rank, world_size, start_step in ((0, 1, 0), (0, 1, 2), (1, 2, 0), (2, 3, 1), (0, 1, 3)):
        epoch = {**EPOCH, "augment": augment, "rank": rank, "world_size": world_size, "start_step": start_step}
        expected = list(train_batches(stored, **epoch))
        assert len(expected) == 3 - start_step
        assert_same(list(train_batches(resident, **epoch)), expected)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("batch_size", "rank", "world_size"), [(4, 0, 1), (19, 0, 1), (7, 1, 2), (100, 2, 3)])
def test_evaluation_batches_are_those_of_the_disk(
    data: PreparedData, batch_size: int, rank: int, world_size: int
) -> None:
    stored = data.split("test")
    expected = list(evaluation_batches(stored, batch_size, rank, world_size))
    assert_same(list(evaluation_batches(ResidentSplit(stored, "cpu"), batch_size, rank, world_size)), expected)


def test_an_empty_split_has_no_batches(data: PreparedData) -> None:
    assert list(evaluation_batches(ResidentSplit(data.split("validation"), "cpu"), 4)) == []


@given(st.data())
@share_of_examples(1.25)
def test_crop_and_flip_pads_crops_and_mirrors_each_image(draw: st.DataObject) -> None:
    count, height, width, channels = (draw.draw(st.integers(1, 5)) for _ in range(4))
    pad = draw.draw(st.integers(0, 3))
    rows, columns = (draw.draw(st.lists(st.integers(0, 2 * pad), min_size=count, max_size=count)) for _ in range(2))
    flipped = draw.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    images = torch.arange(1, 1 + count * height * width * channels).to(torch.uint8)
    images = images.view(count, height, width, channels)
    result = crop_and_flip(images, pad, torch.tensor(rows), torch.tensor(columns), torch.tensor(flipped))
    for n, (row, column, flip) in enumerate(zip(rows, columns, flipped, strict=True)):
        padded = np.pad(images[n].numpy(), ((pad, pad), (pad, pad), (0, 0)))
        window = padded[row : row + height, column : column + width]
        assert np.array_equal(result[n].numpy(), window[:, ::-1] if flip else window)


def test_mistakes_are_refused_at_the_call(data: PreparedData) -> None:
    resident = ResidentSplit(data.split("train"), "cpu")
    with pytest.raises(ValueError, match="batch_size=46 is not allowed: it must be at most the 45 train images"):
        train_batches(resident, **{**EPOCH, "batch_size": 46})
    with pytest.raises(ValueError, match="crop='resized' is not allowed with resident images"):
        train_batches(resident, **{**EPOCH, "augment": AugmentConfig(crop="resized")})


def test_every_step_of_the_way_is_possible_without_reading_the_device(data: PreparedData) -> None:
    """The meta device holds no values: whatever would wait for one fails there."""
    resident = ResidentSplit(data.split("train"), "meta")
    batches = list(train_batches(resident, **EPOCH))
    stored = list(train_batches(data.split("train"), **EPOCH))
    assert [(x.shape, x.dtype, y.shape, y.dtype) for x, y in batches] == [
        (x.shape, x.dtype, y.shape, y.dtype) for x, y in stored
    ]
    assert all(images.is_meta and labels.is_meta for images, labels in batches)
    assert list(evaluation_batches(resident, 8))[-1][0].shape[0] == 45 % 8


@pytest.mark.parametrize("augment", [*AUGMENTS, AugmentConfig(crop="resized", flip=True)], ids=str)
def test_streamed_batches_are_those_of_the_disk_to_the_bit(data: PreparedData, augment: AugmentConfig) -> None:
    stored = data.split("train")
    streamed = StreamedSplit(stored, "cpu")
    for rank, world_size, start_step in ((0, 1, 0), (1, 2, 1)):
        epoch = {**EPOCH, "augment": augment, "rank": rank, "world_size": world_size, "start_step": start_step}
        assert_same(list(train_batches(streamed, **epoch, threads=2)), list(train_batches(stored, **epoch)))
    assert_same(list(evaluation_batches(streamed, 19, 1, 2)), list(evaluation_batches(stored, 19, 1, 2)))


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
def test_encoded_images_can_be_streamed(tmp_path: Path) -> None:
    stored = encoded_split(tmp_path / "encoded", 21)
    streamed = StreamedSplit(stored, "cpu")
    epoch = {**EPOCH, "augment": AugmentConfig(crop="resized", flip=True)}
    assert_same(list(train_batches(streamed, **epoch)), list(train_batches(stored, **epoch)))
    assert_same(list(evaluation_batches(streamed, 4)), list(evaluation_batches(stored, 4)))


def test_the_rule_by_which_a_split_becomes_resident(data: PreparedData, tmp_path: Path) -> None:
    train, meta = data.split("train"), torch.device("meta")
    size = 45 * data.manifest.channels * data.manifest.image_size**2
    assert isinstance(split_for_device(train, meta, budget_bytes=size), ResidentSplit)
    assert isinstance(split_for_device(train, meta, augment=AUGMENTS[-1], budget_bytes=size), ResidentSplit)
    assert isinstance(split_for_device(train, meta, budget_bytes=size - 1), StreamedSplit)
    assert isinstance(
        split_for_device(train, meta, augment=AugmentConfig(crop="resized"), budget_bytes=size), StreamedSplit
    )
    encoded = encoded_split(tmp_path / "encoded", 1)
    assert isinstance(split_for_device(encoded, meta, budget_bytes=2**40), StreamedSplit)
    with pytest.raises(ValueError, match="encoded images cannot be resident"):
        ResidentSplit(encoded, "cpu")
    assert split_for_device(train, torch.device("cpu"), budget_bytes=2**40) is train
    empty = data.split("validation")
    assert split_for_device(empty, meta, budget_bytes=size) is empty


def encoded_split(root: Path, count: int) -> ImageSplit:
    pictures = np.random.default_rng(0).integers(0, 256, (count, 13, 17, 3), dtype=np.uint8)
    with PreparedWriter(root, name="pictures", classes=["a"], encoding="encoded", image_size=8, channels=3) as writer:
        for picture in pictures:
            writer.splits["train"].add(encoded(Image.fromarray(picture), "PNG"), 0)
        writer.histogram_CV += histogram(pictures.transpose(0, 3, 1, 2))
        writer.finish()
    return PreparedData(root).split("train")


def test_a_training_goes_on_from_disk_where_it_began_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights and history to the bit, all on disk, all resident, and half and half."""
    data, augment = write_stripes(tmp_path / "data"), AugmentConfig(crop="pad", pad=1, flip=True)
    stored = new_model()
    history = list(fit(stored, data, augment, TRAIN))

    monkeypatch.setattr(loop, "split_for_device", lambda split, device, augment=None: ResidentSplit(split, device))
    resident = new_model()
    assert without_time(list(fit(resident, data, augment, TRAIN))) == without_time(history)
    assert bits(resident) == bits(stored)

    begun = fit(new_model(), data, augment, TRAIN, checkpoints=tmp_path / "checkpoints")
    next(begun)
    next(begun)
    begun.close()
    monkeypatch.undo()
    mixed = new_model()
    assert without_time(list(fit(mixed, data, augment, TRAIN, checkpoints=tmp_path / "checkpoints"))) == without_time(
        history
    )
    assert bits(mixed) == bits(stored)


def test_a_gpu_evaluates_more_images_at_a_time_and_a_cpu_as_many_as_before() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert evaluation_batch_size(64, 32, cpu) == 64
    assert evaluation_batch_size(64, 32, gpu) == 1024
    assert evaluation_batch_size(256, 224, gpu) == 256
    assert evaluation_batch_size(4096, 32, gpu) == 4096
    assert evaluation_batch_size(4096, 224, gpu, parts=8 * 4) == 128  # as many as are trained on at once
    assert evaluation_batch_size(256, 224, gpu, parts=8 * 4) == 1024 * 32**2 // 224**2
    assert evaluation_batch_size(64, 32, cpu, parts=8) == 64
