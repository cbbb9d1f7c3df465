"""Files are whole or not there, whoever writes at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from condensenet import load_model
from condensenet.deploy.lowering.plan import Plan
from condensenet.files import read_regular, write_atomically


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
