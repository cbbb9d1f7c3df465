"""Images that a node reads from the object store one by one, because all of them do not fit in its cache."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from image_bytes import encoded
from object_server import BUCKET
from PIL import Image
from slow_server import slow_server

from condensenet.config import AugmentConfig
from condensenet.data import PreparedData, evaluation_batches, train_batches
from condensenet.data.prepared import Batch
from tasks import node_data, object_store, remote_images
from tasks.node_data import is_remote, on_this_node, open_data, upload
from tasks.object_store import ObjectStore
from tasks.params import DataParams
from tasks.sources import imagefolder
from tasks.sources.base import split_training_images
from tasks.sources.write_streams import write_streams

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
EPOCH: dict[str, Any] = {"augment": AugmentConfig(crop="resized", flip=True), "batch_size": 8, "seed": 1, "threads": 4}
COUNT = 48  # training images


@pytest.fixture(params=["encoded", "pixels"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> PreparedData:
    """48 training and 6 test images of noise, so they are not small, in several shards."""
    for part, count in (("train", COUNT // 2), ("test", 3)):
        for name in "ab":
            folder = tmp_path / "raw" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng(index + 100 * ord(name)).integers(0, 256, (70, 90, 3), dtype=np.uint8)
                (folder / f"{index}.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    form = {"shorter_side": 99, "raw": True} if request.param == "pixels" else {}
    params = DataParams(source="imagefolder", path=str(tmp_path / "raw"), image_size=32, **form)
    source = imagefolder.read(params)
    write_streams("noise", params, source, *split_training_images(source.train.labels, params), tmp_path / "data", 10)
    return PreparedData(tmp_path / "data")


@pytest.fixture
def store(server: None, tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"{BUCKET}/{tmp_path.name}")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node that does not see the images, and has room for half of them."""
    monkeypatch.setenv("CONDENSENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_images, "LOOK_BYTES", 0)
    return tmp_path / "elsewhere"


def limit(data: PreparedData, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSENET_CACHE_GB", str(share * node_data.size_gb(data.manifest)))


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    for (images, labels), (expected, expected_labels) in zip(some, others, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


def kept(folder: Path, split: str = "train") -> np.ndarray:
    return np.flatnonzero(np.fromfile(folder / f"{split}.checksums", dtype=np.uint32))


def test_batches_are_the_same_and_the_cache_stays_within_its_limit(data, store, elsewhere, monkeypatch) -> None:
    uploaded = upload(data.root, data.manifest, store)
    limit(data, 0.6, monkeypatch)
    with on_this_node(elsewhere, uploaded) as folder:
        assert is_remote(folder)
        assert {path.suffix for path in folder.iterdir()} == {".npy", ".json", ".txt"}
        remote = open_data(folder)
        for epoch in range(2):
            batches = train_batches(remote.split("train"), **EPOCH, epoch=epoch)
            assert_same(list(batches), list(train_batches(data.split("train"), **EPOCH, epoch=epoch)))
        assert_same(list(evaluation_batches(remote.split("test"), 4)), list(evaluation_batches(data.split("test"), 4)))
        assert 0.1 * COUNT < len(kept(folder)) < 0.7 * COUNT
        assert remote_images.disk_bytes(folder) <= 0.6 * 1e9 * node_data.size_gb(data.manifest)


def test_the_limit_holds_while_many_write_at_once(data, store, elsewhere, monkeypatch) -> None:
    uploaded = upload(data.root, data.manifest, store)
    limit(data, 0.6, monkeypatch)
    write = os.pwrite

    def slow(*arguments: Any) -> int:  # so others look at the disk meanwhile
        time.sleep(0.02)
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", slow)
    with on_this_node(elsewhere, uploaded) as folder:
        list(train_batches(open_data(folder).split("train"), **EPOCH | {"threads": 16}, epoch=0))
        assert len(kept(folder)) > 0.1 * COUNT
        assert remote_images.disk_bytes(folder) <= 0.6 * 1e9 * node_data.size_gb(data.manifest)


def test_a_node_reads_its_part_alone_and_only_once(data, store, elsewhere, monkeypatch) -> None:
    uploaded = upload(data.root, data.manifest, store)
    limit(data, 0.9, monkeypatch)
    with on_this_node(elsewhere, uploaded) as folder:
        monkeypatch.setenv("CONDENSENET_CACHE_GB", "1")  # to keep all that is read
        own = {"rank": 1, "world_size": 2, "epoch": 3}
        expected = list(train_batches(data.split("train"), **EPOCH, **own))
        assert_same(list(train_batches(open_data(folder).split("train"), **EPOCH, **own)), expected)
        assert len(kept(folder)) == COUNT // 2
        remote = open_data(folder)
        for name in data.manifest.files:
            uploaded.delete(name)
        assert_same(list(train_batches(remote.split("train"), **EPOCH, **own)), expected)


def test_what_was_left_incomplete_is_read_again(data, store, elsewhere, monkeypatch) -> None:
    uploaded = upload(data.root, data.manifest, store)
    limit(data, 0.9, monkeypatch)
    expected = list(train_batches(data.split("train"), **EPOCH, epoch=0))
    with on_this_node(elsewhere, uploaded) as folder:
        list(train_batches(open_data(folder).split("train"), **EPOCH, epoch=0))
        parts = list(folder.glob("train*.part"))
        assert parts
        for part in parts:
            part.write_bytes(bytes(part.stat().st_size // 2))
        assert_same(list(train_batches(open_data(folder).split("train"), **EPOCH, epoch=0)), expected)


def test_a_reader_that_is_killed_leaves_nothing_that_is_wrong(data, store, elsewhere, monkeypatch) -> None:
    """By SIGKILL, while half of an image is written, and others perhaps without their checksums."""
    uploaded = upload(data.root, data.manifest, store)
    limit(data, 0.9, monkeypatch)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=read_until_killed, args=(elsewhere, uploaded.path))
    process.start()
    try:
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
    finally:
        process.kill()
    with on_this_node(elsewhere, uploaded) as folder:
        before = kept(folder)
        assert 0 < len(before) < COUNT / 2
        expected = list(train_batches(data.split("train"), **EPOCH, epoch=0))
        assert_same(list(train_batches(open_data(folder).split("train"), **EPOCH, epoch=0)), expected)
        assert set(before) < set(kept(folder))


def read_until_killed(elsewhere: Path, store: str) -> None:
    """Ends itself by the tenth image, of which half is written; other threads write whole ones meanwhile."""
    write, written = os.pwrite, []

    def deadly(descriptor: int, content: bytes, start: int) -> int:
        if len(content) > remote_images.CHECKSUM_BYTES:
            written.append(start)
            if len(written) >= 10:  # another thread may have come between
                write(descriptor, content[: len(content) // 2], start)
                os.kill(os.getpid(), signal.SIGKILL)
        return write(descriptor, content, start)

    os.pwrite = deadly
    read_epoch(elsewhere, store)


def fill(disk: Path, left: int = 0) -> None:
    (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - left))


def read_epoch(elsewhere: Path, store: str, full: Path | None = None) -> list[list[np.ndarray]]:
    """The first epoch's batches; the disk at ``full`` is filled up once the training has begun."""
    with on_this_node(elsewhere, ObjectStore(store)) as folder:
        remote = open_data(folder)
        if full:
            fill(full)
        return [[part.numpy() for part in batch] for batch in train_batches(remote.split("train"), **EPOCH, epoch=0)]


def test_a_disk_without_room_for_a_checksum_ends_no_training(
    data, store, elsewhere, small_disk: Path, monkeypatch
) -> None:
    uploaded = upload(data.root, data.manifest, store)
    monkeypatch.setenv("CONDENSENET_CACHE", str(small_disk))
    limit(data, 0.9, monkeypatch)
    with on_this_node(elsewhere, uploaded) as folder:
        pass
    context = multiprocessing.get_context("spawn")  # a fault in mapped memory would end this process
    with ProcessPoolExecutor(1, context) as process:
        batches = process.submit(read_epoch, elsewhere, uploaded.path, small_disk).result()
        (small_disk / "other").unlink()
        assert process.submit(read_epoch, elsewhere, uploaded.path).result()
    for read, expected in zip(batches, train_batches(data.split("train"), **EPOCH, epoch=0), strict=True):
        assert all(map(np.array_equal, read, expected))
    assert len(kept(folder))


def test_images_that_the_disk_has_no_room_for_are_read_one_by_one(
    data, store, elsewhere, small_disk: Path, monkeypatch
) -> None:
    uploaded = upload(data.root, data.manifest, store)
    monkeypatch.setenv("CONDENSENET_CACHE", str(small_disk))
    size = round(node_data.GB * node_data.size_gb(data.manifest))
    fill(small_disk, left=size * 6 // 10)
    with on_this_node(elsewhere, uploaded) as folder:
        assert is_remote(folder)
        batches = train_batches(open_data(folder).split("train"), **EPOCH, epoch=0)
        assert_same(list(batches), list(train_batches(data.split("train"), **EPOCH, epoch=0)))
        assert 0.1 * COUNT < len(kept(folder)) < 0.7 * COUNT
        assert shutil.disk_usage(small_disk).free > 0.02 * size  # others write there too


def test_what_an_earlier_attempt_has_downloaded_needs_no_more_room(
    data, store, elsewhere, small_disk: Path, monkeypatch
) -> None:
    uploaded = upload(data.root, data.manifest, store)
    monkeypatch.setenv("CONDENSENET_CACHE", str(small_disk))
    partial = small_disk / f"data/{data.manifest.fingerprint}.partial"
    partial.mkdir(parents=True)
    for name in list(data.manifest.files)[1:]:
        shutil.copy(data.root / name, partial / name)
    first = next(iter(data.manifest.files.values()))
    fill(small_disk, left=first.bytes * 11 // 10 + 2**14)
    with on_this_node(elsewhere, uploaded) as folder:
        assert not is_remote(folder)
        PreparedData(folder).verify()


def test_an_object_that_is_cut_is_named(data, store, elsewhere, monkeypatch) -> None:
    uploaded = upload(data.root, data.manifest, store)
    uploaded.write("train-00002-of-00005.images.bin", b"short")
    limit(data, 0.5, monkeypatch)
    with (
        on_this_node(elsewhere, uploaded) as folder,
        pytest.raises(ValueError, match=r"train-00002-of-00005.images.bin has 5 bytes, not \d+: delete s3://"),
    ):
        open_data(folder)


def test_all_threads_that_load_images_ask_the_store_at_once(server, tmp_path: Path, monkeypatch) -> None:
    before = pyarrow.io_thread_count()
    (tmp_path / "remote.txt").write_text("bucket/prefix")
    with slow_server() as slow:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{slow.server_address[1]}")
        object_store.filesystem.cache_clear()
        assert ObjectStore("bucket/prefix").exists("file")  # made before the number of threads is known
        try:
            threads = node_data.loader_threads(tmp_path, 8)
            assert threads == 64
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda _: ObjectStore("bucket/prefix").read_range("file", 0, 1), range(2 * threads)))
        finally:
            pyarrow.set_io_thread_count(before)
            object_store.filesystem.cache_clear()
    assert slow.most > 48  # 25 to 27 without: a busy machine may start the last thread late


def test_images_in_another_store_are_read_there(data, store, elsewhere, monkeypatch) -> None:
    first, second = upload(data.root, data.manifest, store), upload(data.root, data.manifest, store.within("moved"))
    limit(data, 0.9, monkeypatch)
    with on_this_node(elsewhere, first):
        pass
    for name in data.manifest.files:
        first.delete(name)
    with on_this_node(elsewhere, second) as folder:
        batches = train_batches(open_data(folder).split("train"), **EPOCH, epoch=0)
        assert_same(list(batches), list(train_batches(data.split("train"), **EPOCH, epoch=0)))
