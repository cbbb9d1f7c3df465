"""The prepared form: written whole or not at all, checked when it is opened, read as it was written."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from condensenet.config import ModelConfig
from condensenet.data import PreparedData, PreparedWriter, shards, write_prepared
from condensenet.data.in_progress import resumable_folder
from condensenet.data.writing import mean_and_std

CLASSES = list("abcde")


def noise(count: int, channels: int = 3, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8), np.arange(count) % len(CLASSES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_prepared(
        tmp_path / "data", {"train": noise(40), "test": noise(10)}, name="noise", classes=CLASSES, source={"origin": 1}
    )
    return tmp_path / "data"


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.parent.iterdir() if path != root)


def test_what_was_written_is_read_back(root: Path) -> None:
    data = PreparedData(root)
    data.verify()
    images, labels = noise(40)
    train = data.split("train")
    assert len(train) == 40
    assert np.array_equal(train.raw(np.arange(40)), images)
    assert train.labels.tolist() == labels.tolist()
    assert data.manifest.splits == {"train": 40, "validation": 0, "test": 10}
    assert data.manifest.classes == tuple(CLASSES)
    assert data.manifest.source == {"origin": 1}
    assert leftovers(root) == []


def test_the_mean_and_deviation_are_those_of_the_training_pixels(root: Path) -> None:
    manifest = PreparedData(root).manifest
    pixels = noise(40)[0].astype(np.float64) / 255
    assert manifest.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert manifest.std == pytest.approx(pixels.std(axis=(0, 2, 3)))


def test_a_channel_of_one_value_is_not_divided_by_zero() -> None:
    counts = np.zeros((1, 256), dtype=np.int64)
    counts[0, 51] = 7
    assert mean_and_std(counts) == ((0.2,), (1.0,))


def test_epochs_are_measured_on_the_held_out_images_or_else_on_the_test_images(tmp_path: Path, root: Path) -> None:
    assert PreparedData(root).evaluation_split.name == "test"
    splits = {"train": noise(20), "validation": noise(5), "test": noise(10)}
    write_prepared(tmp_path / "other", splits, name="noise", classes=CLASSES)
    assert PreparedData(tmp_path / "other").evaluation_split.name == "validation"


def test_the_fingerprint_stands_for_the_content_and_its_order(tmp_path: Path, root: Path) -> None:
    images, labels = noise(40)
    original = PreparedData(root).manifest.fingerprint

    def fingerprint(images: np.ndarray, labels: np.ndarray, name: str = "noise") -> str:
        splits = {"train": (images, labels), "test": noise(10)}
        return write_prepared(tmp_path / "again", splits, name=name, classes=CLASSES).fingerprint

    assert fingerprint(images, labels, name="another name") == original
    assert fingerprint(images[::-1], labels) != original
    assert fingerprint(images, labels[::-1]) != original


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train.images.bin", lambda content: content[:-1], "has 4319 bytes, not 4320: prepare the data again"),
        ("test.labels.npy", None, "test.labels.npy is missing"),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", lambda content: content[:50], "is not a manifest of prepared images"),
        ("manifest.json", lambda content: b"[]", "is not a manifest of prepared images"),
        (
            "manifest.json",
            lambda content: content.replace(b'"format": 1', b'"format": 9'),
            "format=9 is not supported: this version reads format 1",
        ),
        ("manifest.json", lambda content: content.replace(b'"classes"', b'"klasses"'), "is not a manifest"),
    ],
)
def test_opening_refuses_what_is_not_whole(root: Path, file: str, change: object, message: str) -> None:
    content = (root / file).read_bytes()
    (root / file).unlink()
    if change is not None:
        (root / file).write_bytes(change(content))  # type: ignore[operator]
    with pytest.raises(ValueError, match=message) as caught:
        PreparedData(root)
    assert "\n" not in str(caught.value)


def test_verify_finds_one_changed_byte(root: Path) -> None:
    with open(root / "train.images.bin", "r+b") as file:
        file.write(b"\x00\x01\x02")
    data = PreparedData(root)
    with pytest.raises(ValueError, match=r"train.images.bin differs from what was prepared"):
        data.verify()


def test_verify_finds_a_changed_manifest(root: Path) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["classes"][0] = "z"
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="its fingerprint does not match"):
        PreparedData(root).verify()


def test_an_unknown_split_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="split='dev' is not allowed: train, validation, test"):
        PreparedData(root).split("dev")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"dev": noise(5)}, "split='dev' is not allowed"),
        ({"train": (noise(5)[0].astype(np.float32), noise(5)[1])}, r"train: images are float32 \(5, 3, 6, 6\)"),
        ({"train": (noise(5)[0][:, :, :5], noise(5)[1])}, r"train: images are uint8 \(5, 3, 5, 6\)"),
        ({"train": (noise(5)[0], [0, 1])}, "train: 5 images and 2 labels"),
        ({"train": (noise(5)[0], [0, 1, 2, 3, 5])}, "labels are 0 to 5, but must be 0 to 4"),
        ({"train": noise(5), "test": noise(5, size=8)}, "different shapes"),
        ({"train": noise(0), "test": noise(5)}, "no training images"),
    ],
)
def test_writing_refuses_what_does_not_fit(tmp_path: Path, splits: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_prepared(tmp_path / "data", splits, name="noise", classes=CLASSES)
    assert list(tmp_path.iterdir()) == []


def half_write(root: Path) -> None:
    with PreparedWriter(root, name="x", classes=CLASSES, encoding="raw", image_size=6, channels=3) as writer:
        writer.splits["train"].add(bytes(108), 0)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_writer_leaves_nothing_that_looks_whole_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    root = tmp_path / "data"
    child = os.fork()
    if child == 0:
        half_write(root)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not root.exists()
    assert len(leftovers(root)) == 1
    write_prepared(root, {"train": noise(40)}, name="noise", classes=CLASSES)
    PreparedData(root).verify()
    assert leftovers(root) == []


def test_a_failed_writer_keeps_what_was_there(root: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="stop"),
        PreparedWriter(root, name="x", classes=CLASSES, encoding="raw", image_size=6, channels=3),
    ):
        raise RuntimeError("stop")
    PreparedData(root).verify()
    assert leftovers(root) == []


def test_a_file_that_does_not_read_back_as_written_replaces_nothing(root: Path, monkeypatch) -> None:
    sync_and_close = shards.sync_and_close

    def corrupting(file) -> None:
        sync_and_close(file)
        if file.name.endswith("train.images.bin"):
            with open(file.name, "r+b") as written:
                written.write(b"\x00\x01\x02")

    monkeypatch.setattr(shards, "sync_and_close", corrupting)
    with pytest.raises(ValueError, match=r"train.images.bin differs from what was prepared"):
        write_prepared(root, {"train": noise(30)}, name="bad disk", classes=CLASSES)
    assert PreparedData(root).manifest.name == "noise"
    PreparedData(root).verify()
    assert leftovers(root) == []


def test_two_writers_at_once_do_not_disturb_each_other(root: Path) -> None:
    with PreparedWriter(root, name="slow", classes=CLASSES, encoding="raw", image_size=6, channels=3) as slow:
        slow.splits["train"].add(bytes(108), 0)
        write_prepared(root, {"train": noise(30)}, name="quick", classes=CLASSES)
        assert PreparedData(root).manifest.name == "quick"
        slow.splits["train"].add(bytes(108), 1)
        slow.finish()
    PreparedData(root).verify()
    assert PreparedData(root).manifest.splits["train"] == 2
    assert leftovers(root) == []


def test_writers_that_come_and_go_at_once_take_nothing_for_abandoned(root: Path) -> None:
    def write(count: int) -> None:
        for number in range(count):
            with PreparedWriter(root, name="x", classes=CLASSES, encoding="raw", image_size=6, channels=3) as writer:
                writer.splits["train"].add(bytes(108), number)
            with suppress(ValueError), resumable_folder(root, str(threading.get_ident())) as folder:
                assert folder.is_dir()

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, [200] * 4))
    PreparedData(root).verify()


def test_a_model_that_does_not_fit_the_data_is_refused(root: Path) -> None:
    manifest = PreparedData(root).manifest
    layout = {"block_depths": (1,), "growth_rates": (8,)}
    manifest.check_model(ModelConfig(**layout, num_classes=5))
    with pytest.raises(ValueError, match="num_classes=10 is not allowed: the data noise has 5 classes"):
        manifest.check_model(ModelConfig(**layout, num_classes=10))
    with pytest.raises(ValueError, match="in_channels=1 is not allowed"):
        manifest.check_model(ModelConfig(**layout, num_classes=5, in_channels=1))
