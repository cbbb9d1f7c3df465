"""Batches are functions of (seed, epoch, index) alone; augmentation is checked by hand-worked examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condensenet.config import AugmentConfig
from condensenet.data import (
    ImageSplit,
    PreparedData,
    batches,
    evaluation_batches,
    steps_per_epoch,
    train_batches,
    write_prepared,
)
from condensenet.data import randomness as r
from condensenet.data.augment import augment_batch, crop_padded, flip, resized_crop_box, resized_crop_uniforms

EPOCH: dict[str, Any] = {
    "augment": AugmentConfig(crop="pad", pad=2, flip=True),
    "batch_size": 8,
    "seed": 3,
    "epoch": 2,
}
PLAIN: dict[str, Any] = {**EPOCH, "augment": AugmentConfig()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    root = tmp_path_factory.mktemp("prepared") / "data"
    images = np.random.default_rng(0).integers(0, 256, (53, 3, 6, 6), dtype=np.uint8)
    labels = np.arange(53)  # every label names one image
    splits = {"train": (images[:42], labels[:42]), "test": (images[42:], labels[42:])}
    write_prepared(root, splits, name="noise", classes=[str(label) for label in labels])
    return PreparedData(root)


@pytest.fixture(scope="module")
def train(data: PreparedData) -> ImageSplit:
    return data.split("train")


def by_label(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[int, torch.Tensor]:
    return {int(label): image for images, labels in batches for image, label in zip(images, labels, strict=True)}


def test_images_are_normalised_and_keep_their_labels(train: ImageSplit) -> None:
    images, labels = next(iter(train_batches(train, **PLAIN)))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.shape == (8, 3, 6, 6)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (train.manifest.mean, train.manifest.std))
    stored = torch.from_numpy(train.raw(labels.numpy())) / 255
    torch.testing.assert_close(images, (stored - mean) / std)


def test_an_epoch_takes_every_image_at_most_once_and_drops_the_incomplete_batch(train: ImageSplit) -> None:
    batches = list(train_batches(train, **EPOCH))
    assert len(batches) == steps_per_epoch(train, 8) == 5
    assert len(by_label(batches)) == 40


def test_epochs_and_seeds_differ_and_a_repetition_does_not(train: ImageSplit) -> None:
    def labels(**change: int) -> list[int]:
        return [int(x) for _, batch in train_batches(train, **{**EPOCH, **change}) for x in batch]

    assert labels() == labels()
    assert labels(epoch=3) != labels()
    assert labels(seed=4) != labels()
    assert labels(seed=2, epoch=3) != labels()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_see_the_global_batch_also_when_resumed(train: ImageSplit, world_size: int) -> None:
    whole = list(train_batches(train, **EPOCH))
    ranks = [
        list(train_batches(train, **EPOCH, rank=rank, world_size=world_size, start_step=2))
        for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {3}
    for step, (images, labels) in enumerate(whole[2:]):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels)


def test_an_image_is_augmented_alike_in_every_batch_size(train: ImageSplit) -> None:
    eight = by_label(list(train_batches(train, **EPOCH)))
    five = by_label(list(train_batches(train, **{**EPOCH, "batch_size": 5})))
    for label in eight.keys() & five.keys():
        assert torch.equal(eight[label], five[label])
    other_epoch = by_label(list(train_batches(train, **{**EPOCH, "epoch": 9})))
    shared = eight.keys() & other_epoch.keys()
    assert any(not torch.equal(eight[label], other_epoch[label]) for label in shared)


@pytest.mark.parametrize("together", [1, 3 * 8 * 6 * 6 * 4 * 2])
def test_batches_made_together_are_those_made_one_by_one(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """By default all five of these tiny batches come from one piece; here each from its own, and two from each."""
    train, test = data.split("train"), data.split("test")
    default = [*train_batches(train, **EPOCH, start_step=1), *evaluation_batches(test, 8)]
    monkeypatch.setattr(batches, "GROUP_BYTES", together)
    other = [*train_batches(train, **EPOCH, start_step=1), *evaluation_batches(test, 8)]
    assert [len(labels) for _, labels in other] == [8, 8, 8, 8, 8, 3]
    for (images, labels), (expected, expected_labels) in zip(other, default, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world_size": 3}, "batch_size=8 is not divisible by world_size=3"),
        ({"rank": 2, "world_size": 2}, r"rank=2 is not allowed: it must be in 0..1"),
        ({"batch_size": 43}, "batch_size=43 is not allowed: it must be at most the 42 train images"),
        ({"start_step": 6}, "start_step=6 is not allowed: an epoch has 5 steps"),
    ],
)
def test_a_mistake_is_refused_at_the_call(train: ImageSplit, change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_batches(train, **{**EPOCH, **change})


def test_nothing_is_left_after_the_last_step(train: ImageSplit) -> None:
    assert list(train_batches(train, **EPOCH, start_step=5)) == []


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_takes_every_image_once(data: PreparedData, world_size: int) -> None:
    test = data.split("test")
    seen = [int(x) for rank in range(world_size) for _, y in evaluation_batches(test, 4, rank, world_size) for x in y]
    assert sorted(seen) == list(range(42, 53))
    if world_size == 1:
        assert seen == list(range(42, 53))  # in the stored order
    assert list(evaluation_batches(data.split("validation"), 4)) == []


def test_shift_by_hand() -> None:
    image = np.array([[[[1, 2], [3, 4]]]], dtype=np.uint8)
    images = np.repeat(image, 3, axis=0)
    rows, columns = np.array([1, 0, 2]), np.array([1, 1, 0])
    moved = crop_padded(images, 1, rows, columns)[:, 0].tolist()
    assert moved == [[[1, 2], [3, 4]], [[0, 0], [1, 2]], [[0, 3], [0, 0]]]


def test_flip_by_hand() -> None:
    images = np.array([[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]], dtype=np.uint8)
    assert flip(images, np.array([True, False]))[:, 0].tolist() == [[[2, 1], [4, 3]], [[5, 6], [7, 8]]]
    assert images[0, 0].tolist() == [[1, 2], [3, 4]]


def test_the_batch_is_augmented_as_its_images_one_by_one() -> None:
    images = np.random.default_rng(1).integers(1, 256, (64, 2, 5, 5), dtype=np.uint8)
    indices = np.arange(100, 164)
    augment = AugmentConfig(crop="pad", pad=1, flip=True)
    whole = augment_batch(images, indices, augment, 0, 0)
    for place in (0, 17, 63):
        one = augment_batch(images[place : place + 1], indices[place : place + 1], augment, 0, 0)
        assert np.array_equal(whole[place], one[0])
    assert (whole == 0).any()  # the padding is black


def test_flips_and_shifts_are_fair() -> None:
    indices = np.arange(30_000)
    flips = r.bits(0, 0, indices, r.FLIP) >> np.uint64(63)
    assert abs(flips.mean() - 0.5) < 0.02
    shifts = r.below(9, 0, 0, indices, r.CROP_TOP)
    assert np.bincount(shifts, minlength=9).min() > 30_000 / 9 * 0.9
    assert shifts.max() == 8
    assert abs(np.corrcoef(shifts, r.below(9, 0, 0, indices, r.CROP_LEFT))[0, 1]) < 0.02
    assert abs(np.corrcoef(shifts, r.below(9, 0, 1, indices, r.CROP_TOP))[0, 1]) < 0.02


def test_the_mixing_function_is_splitmix64() -> None:
    state, outputs = np.zeros(1, dtype=np.uint64), []
    for _ in range(3):  # the reference's first outputs for the seed 0
        outputs.append(int(r._mix(state)[0]))
        state = state + np.uint64(r.GOLDEN_GAMMA)
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_a_permutation_holds_every_index() -> None:
    assert sorted(r.permutation(1000, 1, 2).tolist()) == list(range(1000))
    assert r.permutation(4, 0, 0).tolist() == r.permutation(4, 0, 0).tolist()


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 10**6))
def test_a_resized_crop_lies_inside_the_image(height: int, width: int, index: int) -> None:
    uniforms = resized_crop_uniforms(np.array([index]), 0, 0)
    top, left, h, w = resized_crop_box(height, width, uniforms[0])
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0


def test_resized_crops_are_drawn_like_torchvisions() -> None:
    from torchvision.transforms import RandomResizedCrop

    image = torch.zeros(1, 300, 400)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])
    mine = np.array([resized_crop_box(300, 400, uniforms) for uniforms in resized_crop_uniforms(np.arange(3000), 0, 0)])
    assert np.abs(mine.mean(axis=0) - theirs.mean(axis=0)).max() < 5  # pixels; three standard errors
    assert np.abs(mine.std(axis=0) - theirs.std(axis=0)).max() < 5


def test_a_long_image_is_cropped_in_its_centre() -> None:
    assert resized_crop_box(10, 2000, resized_crop_uniforms(np.array([5]), 0, 0)[0]) == (0, 993, 10, 13)
