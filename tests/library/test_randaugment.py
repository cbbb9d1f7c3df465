"""RandAugment against torchvision's, and training images of another size than those of evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from training_example import TRAIN, bits, new_model, without_time, write_stripes

from condensenet.config import AugmentConfig
from condensenet.data import PreparedData, evaluation_batches, train_batches
from condensenet.data.augment import crop_size
from condensenet.data.randaugment import OPERATIONS, SIGNED, apply, randaugment, randaugment_uniforms
from condensenet.data.resident import ResidentSplit, StreamedSplit, split_for_device
from condensenet.training import TrainingPaused, fit, loop

pytestmark = pytest.mark.usefixtures("one_thread")
GROWING = AugmentConfig(crop="resized", flip=True, crop_size=72, first_crop_size=8, randaugment=2)


def noise(channels: int) -> torch.Tensor:
    return torch.randint(0, 256, (channels, 33, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def theirs(image: torch.Tensor, magnitude: int, seed: int) -> tuple[torch.Tensor, str, bool]:
    """What torchvision makes of the image, and the operation and sign that it draws for it."""
    torch.manual_seed(seed)
    result = v2.RandAugment(num_ops=1, magnitude=magnitude)(image)
    torch.manual_seed(seed)
    name = list(OPERATIONS)[int(torch.randint(len(OPERATIONS), ()))]
    return result, name, bool(torch.rand(()) <= 0.5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_every_operation_is_torchvisions(channels: int, magnitude: int) -> None:
    image, seen = noise(channels), set()
    for seed in range(200):
        expected, name, is_negative = theirs(image, magnitude, seed)
        mine = apply(image, name, magnitude, is_negative=is_negative)
        assert torch.equal(mine, expected), (name, is_negative)
        seen.add((name, is_negative and name in SIGNED))
    assert len(seen) == len(OPERATIONS) + len(SIGNED)


@pytest.mark.parametrize("magnitude", range(31))
def test_solarize_has_torchvisions_threshold(magnitude: int) -> None:
    image = noise(3)
    expected = next(
        mine for seed in range(200) for mine, name, _ in [theirs(image, magnitude, seed)] if name == "Solarize"
    )
    assert torch.equal(apply(image, "Solarize", magnitude, is_negative=False), expected)


def test_operations_are_drawn_evenly_and_applied_in_order() -> None:
    uniforms = randaugment_uniforms(np.arange(4000), 2, seed=1, epoch=3)
    assert uniforms.shape == (4000, 2, 2)
    counts = np.bincount((uniforms[:, 0, 0] * len(OPERATIONS)).astype(int), minlength=len(OPERATIONS))
    assert 0.7 < counts.min() / counts.mean() < counts.max() / counts.mean() < 1.3
    assert not np.array_equal(uniforms, randaugment_uniforms(np.arange(4000), 2, seed=1, epoch=4))
    names, image = list(OPERATIONS), noise(3)
    solarize, rotate = ((names.index(name) + 0.5) / len(names) for name in ("Solarize", "Rotate"))
    both = randaugment(image, 20, np.array([[solarize, 0.9], [rotate, 0.1]]))
    expected = apply(apply(image, "Solarize", 20, is_negative=False), "Rotate", 20, is_negative=True)
    assert torch.equal(both, expected)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_stripes(tmp_path_factory.mktemp("data") / "data")


@pytest.mark.parametrize("crop", ["none", "resized"])
def test_neither_ranks_nor_threads_nor_a_resume_change_what_an_image_gets(data: PreparedData, crop: str) -> None:
    split = data.split("train")
    epoch = {"augment": AugmentConfig(crop=crop, randaugment=2), "batch_size": 8, "seed": 1, "epoch": 0}
    plain = list(train_batches(split, **{**epoch, "augment": AugmentConfig(crop=crop)}))
    whole = list(train_batches(split, **epoch, threads=1))
    assert not torch.equal(whole[0][0], plain[0][0])
    ranks = [list(train_batches(split, **epoch, rank=rank, world_size=2, threads=3)) for rank in range(2)]
    for step, (images, _) in enumerate(whole):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
    assert torch.equal(next(iter(train_batches(split, **epoch, start_step=3)))[0], whole[3][0])
    streamed = list(train_batches(StreamedSplit(split, "cpu"), **epoch, threads=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(streamed, whole, strict=True))


def test_images_that_reside_on_a_gpu_cannot_have_it(data: PreparedData) -> None:
    split, augment = data.split("train"), AugmentConfig(randaugment=1)
    assert isinstance(split_for_device(split, torch.device("meta"), augment=augment, budget_bytes=2**30), StreamedSplit)
    plain = split_for_device(split, torch.device("meta"), augment=AugmentConfig(), budget_bytes=2**30)
    assert isinstance(plain, ResidentSplit)
    with pytest.raises(ValueError, match="randaugment=1 is not allowed with resident images: 0"):
        train_batches(plain, augment=augment, batch_size=8, seed=0, epoch=0)


def test_each_size_has_an_equal_share_of_the_epochs() -> None:
    def sizes(augment: AugmentConfig, epochs: int) -> list[int]:
        return [crop_size(augment, 224, epoch, epochs) for epoch in range(epochs)]

    assert sizes(AugmentConfig(), 3) == [224] * 3
    assert sizes(AugmentConfig(crop="resized", crop_size=192), 2) == [192] * 2
    assert sizes(AugmentConfig(crop="resized", crop_size=192, first_crop_size=128), 6) == [128, 128, 160, 160, 192, 192]
    assert sizes(AugmentConfig(crop="resized", first_crop_size=176), 5) == [176, 208, 208, 224, 224]
    assert sizes(AugmentConfig(crop="resized", first_crop_size=64), 2) == [128, 224]
    with pytest.raises(ValueError, match="first_crop_size=256 is not allowed: at most the 224 pixels"):
        sizes(AugmentConfig(crop="resized", first_crop_size=256), 2)


def test_training_images_grow_and_those_of_evaluation_keep_their_size(data: PreparedData) -> None:
    split = data.split("train")
    shapes = []

    class Shapes(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(images.shape[1:]))
            return network(images)

    network = new_model()
    config = replace(TRAIN, epochs=6)
    trainer = loop.Trainer(network, data, GROWING, config, None, torch.device("cpu"))
    trainer.forward = Shapes()
    for _ in range(6):
        trainer.run_epoch()
    steps = trainer.steps_per_epoch
    assert shapes == [(1, size, size) for size in (8, 8, 40, 40, 72, 72) for _ in range(steps)]
    images, _ = next(iter(evaluation_batches(split, 4)))
    assert images.shape == (4, 1, 8, 8)


def test_it_is_resumed_to_the_bit(data: PreparedData, tmp_path: Path) -> None:
    whole, resumed = new_model(), new_model()
    config = replace(TRAIN, epochs=3)
    history = without_time(list(fit(whole, data, GROWING, config)))
    calls = iter(range(100))
    with pytest.raises(TrainingPaused):
        list(fit(new_model(), data, GROWING, config, checkpoints=tmp_path, stop=lambda: next(calls) == 7))
    assert without_time(list(fit(resumed, data, GROWING, config, checkpoints=tmp_path))) == history
    assert bits(resumed) == bits(whole)


BAD = [
    ({"crop_size": 64}, "crop_size=64 does not go with crop='none'"),
    ({"crop": "resized", "crop_size": 0}, "crop_size=0 is not allowed: it must be 1 or more"),
    ({"crop": "resized", "crop_size": 2.5}, "crop_size=2.5 is not allowed: it must be null or a whole number"),
    (
        {"crop": "resized", "crop_size": 64, "first_crop_size": 65},
        "first_crop_size=65 is not allowed: at most the 64 pixels that it grows to",
    ),
    ({"randaugment": 15}, r"randaugment=15 is not allowed: it must be in \[0, 14\]"),
    ({"randaugment_magnitude": 31}, r"randaugment_magnitude=31 is not allowed: it must be in \[0, 30\]"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_values_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**values)
