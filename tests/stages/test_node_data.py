"""Prepared images on a node that does not see the checkout: from an object store into a folder of limited size."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from object_server import BUCKET
from training_example import stripes, write_stripes

from condensenet.data import PreparedData, write_prepared
from condensenet.data.manifest import MANIFEST
from condensenet.file_locks import lock
from tasks import console, node_data
from tasks.node_data import on_this_node, upload
from tasks.object_store import ObjectStore

KILLED_AFTER_ONE_FILE = """
import os, signal, sys
from pathlib import Path
from tasks import node_data
from tasks.object_store import ObjectStore

unlink = os.unlink

def deadly(*arguments, **options):
    unlink(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

os.unlink = deadly
with node_data.on_this_node(Path("elsewhere"), ObjectStore(sys.argv[1])):
    pass
"""

SLOW_DOWNLOAD = """
import sys, time
from pathlib import Path
from tasks import node_data
from tasks.object_store import ObjectStore

class Slow(ObjectStore):
    def chunks(self, name):
        for chunk in super().chunks(name):
            for start in range(0, len(chunk), 2**15):
                yield chunk[start : start + 2**15]
                time.sleep(0.04)

with node_data.on_this_node(Path("elsewhere"), Slow(sys.argv[1])):
    pass
"""


class Sent(ObjectStore):
    """Notes what is uploaded, here and below."""

    names_sent: ClassVar[list[str]] = []

    def upload(self, path: Path, name: str) -> None:
        self.names_sent.append(name)
        super().upload(path, name)


class Counted(ObjectStore):
    """Notes what is downloaded whole; it is gone after ``most`` files."""

    names_read: ClassVar[list[str]] = []
    most: ClassVar[int] = 0

    def chunks(self, name: str) -> Iterator[bytes]:
        if len(self.names_read) == self.most:
            raise ConnectionError("the store is gone")
        yield from super().chunks(name)
        self.names_read.append(name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSENET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/data"


@pytest.fixture
def store(server: None, request: pytest.FixtureRequest) -> ObjectStore:
    return ObjectStore(f"{BUCKET}/{request.node.name}")


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    return write_stripes(tmp_path / "data")


def other_data(root: Path, shift: int) -> PreparedData:
    images = {name: ((pixels + np.uint8(shift)), labels) for name, (pixels, labels) in stripes().items()}
    write_prepared(root, images, name="stripes", classes=["rows", "columns", "neither"])
    return PreparedData(root)


def folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_upload_is_done_once(store, data, capsys):
    uploaded = upload(data.root, data.manifest, store)
    assert uploaded.path == f"{store.path}/data/{data.manifest.fingerprint}"
    assert set(uploaded.names()) == {MANIFEST, *data.manifest.files}
    assert "uploading" in capsys.readouterr().out
    assert upload(data.root, data.manifest, store) == uploaded
    assert capsys.readouterr().out == ""


def test_upload_that_was_cut_off_goes_on(store, data, capsys, monkeypatch):
    uploaded = upload(data.root, data.manifest, store)
    monkeypatch.setattr(Sent, "names_sent", [])
    for name in (MANIFEST, "train.images.bin", "test.images.bin"):
        uploaded.delete(name)
    uploaded.write("test.labels.npy", b"of another size")
    sent = Sent(store.path)
    upload(data.root, data.manifest, sent)
    assert sorted(sent.names_sent[:-1]) == ["test.images.bin", "test.labels.npy", "train.images.bin"]
    assert sent.names_sent[-1] == MANIFEST
    size = data.manifest.files["train.images.bin"].bytes + data.manifest.files["test.images.bin"].bytes
    assert f"uploading {(size + data.manifest.files['test.labels.npy'].bytes) / 1000:.3g} kB" in capsys.readouterr().out
    assert uploaded.sizes() == {MANIFEST: (data.root / MANIFEST).stat().st_size} | {
        name: entry.bytes for name, entry in data.manifest.files.items()
    }


def test_upload_shows_how_far_it_is(store, data, capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0)
    upload(data.root, data.manifest, store)
    assert f"upload: 1 of {len(data.manifest.files)} files" in capsys.readouterr().out


def test_node_that_has_the_images_reads_them_where_they_are(store, data, cache):
    uploaded = upload(data.root, data.manifest, store)
    with on_this_node(data.root, uploaded) as folder:
        assert folder == data.root
    with on_this_node(data.root, None) as folder:
        assert folder == data.root
    assert not cache.exists()


def test_locks_of_the_cache_work_where_they_are_those_of_nfs(store, data, cache, monkeypatch):
    uploaded = upload(data.root, data.manifest, store)
    monkeypatch.setattr(fcntl, "flock", fcntl.lockf)  # as NFS does: one that is shared needs a file that can be read
    with on_this_node(Path("elsewhere"), uploaded) as folder:
        assert folder.parent == cache


def test_other_node_downloads_them_once(store, data, cache, tmp_path):
    uploaded = upload(data.root, data.manifest, store)
    elsewhere = tmp_path / "elsewhere"
    with on_this_node(elsewhere, uploaded) as folder:
        PreparedData(folder).verify()
        assert PreparedData(folder).manifest == data.manifest
    uploaded.delete(next(iter(data.manifest.files)))
    with on_this_node(elsewhere, uploaded) as again:
        assert again == folder
    assert folders(cache) == {data.manifest.fingerprint}


def test_workers_of_one_node_use_them_at_the_same_time(store, data, cache, tmp_path, monkeypatch):
    uploaded = upload(data.root, data.manifest, store)
    together = threading.Barrier(3)  # broken if one has to wait for another

    def use(_: int) -> Path:
        with on_this_node(tmp_path / "elsewhere", uploaded) as folder:
            PreparedData(folder).verify()
            together.wait(timeout=30)
            return folder

    def lock_and_wait(*arguments: Any, **options: Any) -> None:
        lock(*arguments, **options)
        time.sleep(0.2)  # so that all three come as far before one goes on

    monkeypatch.setattr(node_data, "lock", lock_and_wait)
    with ThreadPoolExecutor(3) as workers:
        assert len(set(workers.map(use, range(3)))) == 1


def test_node_with_other_images_at_the_same_path_does_not_use_them(store, data, cache, tmp_path):
    uploaded = upload(data.root, data.manifest, store)
    other = other_data(tmp_path / "other", 1)
    with on_this_node(other.root, uploaded) as folder:
        assert PreparedData(folder).manifest.fingerprint == data.manifest.fingerprint


def test_file_that_differs_is_named_and_is_no_data(store, data, cache, tmp_path):
    uploaded = upload(data.root, data.manifest, store)
    uploaded.write("train.images.bin", b"x")
    with (
        pytest.raises(ValueError, match=r"train.images.bin differs from what was prepared: delete s3://"),
        on_this_node(tmp_path / "elsewhere", uploaded),
    ):
        pass
    assert folders(cache) == {f"{data.manifest.fingerprint}.partial"}
    uploaded.upload(data.root / "train.images.bin", "train.images.bin")
    with on_this_node(tmp_path / "elsewhere", uploaded) as folder:
        PreparedData(folder).verify()


def test_least_recently_used_goes_first_and_nothing_that_is_in_use(store, cache, tmp_path, monkeypatch):
    sets = [other_data(tmp_path / f"data{number}", number) for number in range(4)]
    stores = [upload(each.root, each.manifest, store) for each in sets]
    names = [each.manifest.fingerprint for each in sets]
    size = node_data.size_gb(sets[0].manifest)
    monkeypatch.setenv("CONDENSENET_CACHE_GB", str(2.5 * size))
    elsewhere = tmp_path / "elsewhere"
    for number in (0, 1):
        with on_this_node(elsewhere, stores[number]):
            pass
    os.utime(cache / f"{names[0]}.lock", (1, 1))
    with on_this_node(elsewhere, stores[2]):
        assert folders(cache) == {names[1], names[2]}
        os.utime(cache / f"{names[2]}.lock", (1, 1))
        with on_this_node(elsewhere, stores[3]):
            assert folders(cache) == {names[2], names[3]}
            monkeypatch.setenv("CONDENSENET_CACHE_GB", str(1.5 * size))
            too_little = r"CONDENSENET_CACHE_GB=.* is too little on a node: trainings there use .* GB of images"
            with pytest.raises(ValueError, match=too_little), on_this_node(elsewhere, stores[0]):
                pass
    with on_this_node(elsewhere, stores[0]):
        assert folders(cache) == {names[0]}


def test_what_a_killed_download_left_is_no_data(store, data, cache, tmp_path):
    uploaded = upload(data.root, data.manifest, store)
    partial = cache / f"{data.manifest.fingerprint}.partial"
    partial.mkdir(parents=True)
    for name in ("half", "remote.txt", MANIFEST, "test.labels.npy"):
        (partial / name).write_bytes(b"x")
    same_size = bytes(data.manifest.files["train.images.bin"].bytes)
    (partial / "train.images.bin").write_bytes(same_size)
    with on_this_node(tmp_path / "elsewhere", uploaded) as folder:
        PreparedData(folder).verify()
        assert {path.name for path in folder.iterdir()} == {MANIFEST, *data.manifest.files}
    assert not partial.exists()


def test_download_that_failed_goes_on_at_the_file(store, data, cache, tmp_path, capsys, monkeypatch):
    upload(data.root, data.manifest, store)
    uploaded, elsewhere = Counted(f"{store.path}/data/{data.manifest.fingerprint}"), tmp_path / "elsewhere"
    monkeypatch.setattr(Counted, "names_read", [])
    monkeypatch.setattr(Counted, "most", 1)
    with pytest.raises(ConnectionError, match="the store is gone"), on_this_node(elsewhere, uploaded):
        pass
    first = list(Counted.names_read)
    monkeypatch.setattr(Counted, "most", len(data.manifest.files))
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0)
    capsys.readouterr()
    with on_this_node(elsewhere, uploaded) as folder:
        PreparedData(folder).verify()
    assert len(first) == 1
    assert sorted(Counted.names_read) == sorted(data.manifest.files)  # each of them once
    left = sum(entry.bytes for name, entry in data.manifest.files.items() if name not in first)
    said = capsys.readouterr().out
    assert f"downloading {left / 1000:.3g} kB of prepared images from {uploaded}" in said
    assert f"download: 2 of {len(data.manifest.files)} files" in said


def test_download_killed_in_the_midst_of_files_goes_on_and_nothing_half_is_read(
    store, cache, tmp_path, monkeypatch, checkout
) -> None:
    """By SIGKILL, twice, each time while a file of images is being written."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(600) % 3
    splits = dict.fromkeys(("train", "validation", "test"), (pixels, labels))
    write_prepared(tmp_path / "data", splits, name="noise", classes=["a", "b", "c"])
    data = PreparedData(tmp_path / "data")
    upload(data.root, data.manifest, store)
    uploaded = Counted(f"{store.path}/data/{data.manifest.fingerprint}")
    partial = cache / f"{data.manifest.fingerprint}.partial"
    monkeypatch.setattr(Counted, "names_read", [])
    monkeypatch.setattr(Counted, "most", 99)

    whole, half = set(), set()
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_DOWNLOAD, uploaded.path],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            cwd=tmp_path,
        )
        try:
            while not (begun := half_written(partial, data) - half):  # the second time that of another file
                assert process.poll() is None
                time.sleep(0.005)
        finally:
            process.kill()
            status = process.wait()
        assert status == -signal.SIGKILL
        half |= begun
        assert half_written(partial, data) == begun
        assert folders(cache) == {partial.name}
        before, whole = whole, {path.name for path in partial.iterdir()} - begun - {MANIFEST}
        assert whole >= before
    assert whole

    with on_this_node(tmp_path / "elsewhere", uploaded) as folder:
        PreparedData(folder).verify()
    assert set(Counted.names_read) == set(data.manifest.files) - whole


def half_written(partial: Path, data: PreparedData) -> set[str]:
    """Files of images of which some is there, and not all."""
    files = {path.name: path.stat().st_size for path in partial.glob("*.images.bin")}
    return {name for name, size in files.items() if 2**15 <= size < data.manifest.files[name].bytes}


def test_raw_images_that_the_disk_has_no_room_for_are_one_line(store, data, tmp_path, small_disk, monkeypatch):
    monkeypatch.setenv("CONDENSENET_CACHE", str(small_disk))
    uploaded = upload(data.root, data.manifest, store)
    (small_disk / "other").write_bytes(bytes(2**22 - 2**12))  # so there is room for the manifest
    too_little = r"disk/data: the disk of a node has room for .* GB in it, but trainings there use .* GB of images"
    with pytest.raises(ValueError, match=too_little), on_this_node(tmp_path / "elsewhere", uploaded):
        pass
    assert folders(small_disk / "data") == set()


def test_what_a_process_killed_while_it_made_room_left_is_no_data(
    store, data, cache, tmp_path, monkeypatch, checkout
) -> None:
    uploaded, other = upload(data.root, data.manifest, store), other_data(tmp_path / "other", 1)
    elsewhere = tmp_path / "elsewhere"
    with on_this_node(elsewhere, uploaded):
        pass
    with monkeypatch.context() as little:
        little.setenv("CONDENSENET_CACHE_GB", str(1.5 * node_data.size_gb(data.manifest)))
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_AFTER_ONE_FILE, upload(other.root, other.manifest, store).path],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            cwd=tmp_path,
            timeout=60,
        )
    assert killed.returncode == -signal.SIGKILL
    with on_this_node(elsewhere, uploaded) as folder:
        PreparedData(folder).verify()
    assert folders(cache) == {data.manifest.fingerprint, f"{other.manifest.fingerprint}.partial"}


def test_what_a_killed_process_left_takes_room_without_a_manifest_too(store, data, cache, tmp_path, monkeypatch):
    size = node_data.size_gb(data.manifest)
    monkeypatch.setenv("CONDENSENET_CACHE_GB", str(1.5 * size))
    left = cache / "dead.partial"
    left.mkdir(parents=True)
    (left / "half").write_bytes(bytes(int(size * node_data.GB)))
    (cache / "dead.lock").touch()
    with on_this_node(tmp_path / "elsewhere", upload(data.root, data.manifest, store)):
        assert folders(cache) == {data.manifest.fingerprint}


def test_size_that_is_no_number_is_one_line(store, data, cache, tmp_path, monkeypatch):
    uploaded = upload(data.root, replace(data.manifest), store)
    monkeypatch.setenv("CONDENSENET_CACHE_GB", "much")
    with (
        pytest.raises(ValueError, match="CONDENSENET_CACHE_GB='much' is not allowed: it must be a number of GB"),
        on_this_node(tmp_path / "elsewhere", uploaded),
    ):
        pass
