"""Files are whole or not there, whoever writes at the same time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from condensenet import file_locks, files, load_model
from condensenet.config import MAX_WEIGHTS
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


def test_what_a_killed_writer_left_goes_with_the_next_file_of_that_name(tmp_path: Path) -> None:
    path, killed = tmp_path / "file[1].txt", "import condensenet.files as f; f.os.replace = lambda *_: f.os.kill(0, 9)"
    code = f"{killed}; f.write_atomically(f.Path({str(path)!r}), b'half')"
    assert (
        subprocess.run([sys.executable, "-c", code], start_new_session=True, check=False).returncode == -signal.SIGKILL
    )
    (left,) = tmp_path.iterdir()
    write_atomically(tmp_path / "another", b"")
    assert left.exists()
    with left.open("r+b") as writer:  # one that lives
        assert file_locks.try_lock(writer)
        write_atomically(path, b"whole")
        assert left.exists()
    write_atomically(path, b"whole")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {path.name: b"whole", "another": b""}


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


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As others can leave one in /tmp, if they guess the name."""
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "12345678")
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / ".file.12345678.tmp").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", b"written")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_temporary_folder_goes_and_those_of_killed_processes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os, condensenet.files as f\nwith f.temporary_folder('cn-') as folder: (folder / 'x').touch(); "
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code + "os.kill(0, 9)"], env=environment, start_new_session=True, check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "content/x").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / f"{files.OURS}cn-11111111").symlink_to(tmp_path / "mine")
    with files.temporary_folder("cn-") as living:
        (living / "file").touch()
        with files.temporary_folder("cn-") as another:
            assert {living, another} == set(tmp_path.glob("*/content"))
            assert list(another.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"mine", f"{files.OURS}cn-11111111"}


def test_folders_that_are_not_ours_stay_whatever_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ("cn-of-mine", "cn-12345678", f"{files.OURS}cn-of-mine", f"{files.OURS}cn-12345678")
    for name in names:
        (tmp_path / name / "content").mkdir(parents=True)
    elsewhere = tmp_path / f"{files.OURS}cn-87654321"  # of another machine, whose locks are not seen here
    shutil.copytree(tmp_path / names[-1], elsewhere)
    (elsewhere / files.MARK).write_text("another-machine")
    with files.temporary_folder("cn-"):
        pass
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/content")} == {
        f"{name}/content" for name in (*names, elsewhere.name)
    }


def test_a_checkpoint_of_the_largest_network_may_be_read() -> None:
    """It holds the weights, their gradients' momentum and their average, in float32, and less than as much besides."""
    assert files.MAX_BYTES >= 2 * 3 * 4 * MAX_WEIGHTS
