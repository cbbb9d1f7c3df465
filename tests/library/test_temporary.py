"""Temporary files and folders go, whatever became of their process; other people's stay."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from condensenet import file_locks, temporary
from condensenet.files import write_atomically


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


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As others can leave one in /tmp, if they guess the name."""
    monkeypatch.setattr(temporary.secrets, "token_hex", lambda _: "12345678")
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
    code = "import os, condensenet.temporary as f\nwith f.temporary_folder('cn-') as folder: (folder / 'x').touch(); "
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code + "os.kill(0, 9)"], env=environment, start_new_session=True, check=False)
    (left,) = tmp_path.iterdir()
    assert (left / temporary.CONTENT / "x").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / f"{temporary.PREFIX}cn-11111111").symlink_to(tmp_path / "mine")
    with temporary.temporary_folder("cn-") as living:
        (living / "file").touch()
        with temporary.temporary_folder("cn-") as another:
            assert {living, another} == set(tmp_path.glob(f"*/{temporary.CONTENT}"))
            assert list(another.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"mine", f"{temporary.PREFIX}cn-11111111"}


def test_folders_that_are_not_ours_stay_whatever_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ("cn-of-mine", "cn-12345678", f"{temporary.PREFIX}cn-of-mine", f"{temporary.PREFIX}cn-12345678")
    for name in names:
        (tmp_path / name / temporary.CONTENT).mkdir(parents=True)
    elsewhere = tmp_path / f"{temporary.PREFIX}cn-87654321"  # of another machine, whose locks are not seen here
    shutil.copytree(tmp_path / names[-1], elsewhere)
    (elsewhere / temporary.MARK).write_text("another-machine")
    with temporary.temporary_folder("cn-"):
        pass
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob(f"*/{temporary.CONTENT}")} == {
        f"{name}/{temporary.CONTENT}" for name in (*names, elsewhere.name)
    }
