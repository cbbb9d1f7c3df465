"""Files are whole or not there, whoever writes at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from condensenet.files import write_atomically


def test_threads_that_write_one_file_leave_one_of_their_contents_whole(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([number]) * 10_000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write_atomically(path, contents[number % 4]), range(80)))  # raises what they raise
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
