"""Files are whole or not there, whoever writes at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from condensenet import files, load_model
from condensenet.config.bounds import MAX_WEIGHTS
from condensenet.data.manifest import Manifest
from condensenet.data.preprocess import load_images
from condensenet.deploy.lowering.plan import Plan
from condensenet.deploy.lowering.timing_cache import TimingCache
from condensenet.files import Folder, read_regular, write_atomically
from condensenet.models.storage import read_plain
from condensenet.preprocessing import Preprocessing


def test_threads_that_write_one_file_leave_one_of_their_contents_whole(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([number]) * 10_000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write_atomically(path, contents[number % 4]), range(80)))  # raises what they raise
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_pipes_devices_and_large_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (load_model, Plan.load):
            with pytest.raises(ValueError, match=f"{path} is not a regular file$"):
                read(path)
    (tmp_path / "file").write_bytes(b"four")
    assert read_regular(tmp_path / "file", 4) == b"four"
    with pytest.raises(ValueError, match=r"file has 4 bytes: at most 3 are allowed$"):
        read_regular(tmp_path / "file", 3)


PREPROCESSING = Preprocessing(image_size=8, resize_shorter=8, channels=1, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("read", "limit"),
    [
        (lambda path: Folder(path.parent).read(path.name), 2**35),
        (load_model, 2**35),
        (read_plain, 2**35),
        (Plan.load, 2**24),
        (TimingCache, 2**26),
        (lambda path: load_images([path], PREPROCESSING), 2**28),
        (Manifest.load, 2**28),
    ],
    ids=["folder", "model", "plain", "plan", "timing-cache", "image", "manifest"],
)
def test_what_is_larger_than_any_such_file_is_not_read(tmp_path: Path, read: Any, limit: int) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(limit + 1)  # no byte of it is on the disk
    message = f"file has {limit + 1} bytes: at most {limit} are allowed|file is not a manifest of prepared images"
    if read is TimingCache:
        with pytest.warns(UserWarning, match=message):
            read(path)
        return
    with pytest.raises((ValueError, OSError), match=message):
        read(path)


@pytest.mark.parametrize("times", [1, 3])
def test_a_temporary_file_that_another_machine_removed_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As one does that does not see our locks; but not for ever."""
    replace, removed = os.replace, []

    def after_removal(temporary: Path, path: Path) -> None:
        if len(removed) < times:
            temporary.unlink()
            removed.append(temporary)
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", after_removal)
    if times == files.ATTEMPTS:
        with pytest.raises(FileNotFoundError):
            write_atomically(tmp_path / "file", b"whole")
        assert list(tmp_path.iterdir()) == []
    else:
        write_atomically(tmp_path / "file", b"whole")
        assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_checkpoint_of_the_largest_network_may_be_read() -> None:
    """It holds the weights, their gradients' momentum and their average, in float32, and less than as much besides."""
    assert files.MAX_BYTES >= 2 * 3 * 4 * MAX_WEIGHTS
