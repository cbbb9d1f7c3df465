"""Mend what a killed DVC leaves behind, and keep a copy of ``dvc.lock`` to mend it from.

DVC empties ``dvc.lock``, and its own list of running commands (``.dvc/tmp/rwlock``), before it writes them. A kill, a
power cut or a full disk at that moment leaves half a file, and every later command fails on it, or loses what it had.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from condensenet.files import write_atomically
from tasks import paths

if TYPE_CHECKING:
    from dvc.repo import Repo

CONFLICT = b"<<<<<<< "  # of a merge that a person has to end
_one_thread = threading.Lock()  # DVC's lock makes threads wait for half a second


def recover(emit: Callable[[str], None]) -> bool:
    """Mend both files, and say so by ``emit``; whether there was anything to mend. A sound ``dvc.lock`` is copied.

    Nothing is done while another process holds DVC's lock: that one reads the files, or writes them just now. What
    DVC itself refuses, it tells better.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    mended = []
    try:
        with _one_thread, Repo(".") as repo, repo.lock:
            mended = [line for line in (_mend_rwlock(repo), _mend_or_copy()) if line]
    except DvcException:
        pass
    except OSError as error:  # a full disk: what the stage has to say about it matters more
        emit(f"{paths.DVC_LOCK} was not copied: {error}")
    for line in mended:
        emit(line)
    return bool(mended)


def _mend_or_copy() -> str | None:
    copy = Path(os.path.relpath(paths.state() / paths.DVC_LOCK))
    content = paths.DVC_LOCK.read_bytes() if paths.DVC_LOCK.exists() else None
    if content is None or CONFLICT in content:
        return None
    if _is_whole(content):
        write_atomically(copy, content)
        return None
    damaged = copy.with_name(f"{copy.name}.damaged")
    write_atomically(damaged, content)
    if copy.exists():
        write_atomically(paths.DVC_LOCK, copy.read_bytes())
        how = "replaced by the copy after the last finished stage"
    else:
        paths.DVC_LOCK.unlink()
        how = "removed, no stage had finished"
    return f"{paths.DVC_LOCK} is not whole (was dvc killed while it wrote it?): {how}; the damaged file is {damaged}"


def _is_whole(content: bytes) -> bool:
    """Most beginnings of the file are valid too, but end in the middle of a line."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import parse_yaml

    try:
        Lockfile.validate(parse_yaml(content.decode(), str(paths.DVC_LOCK)), str(paths.DVC_LOCK))
    except (DvcException, UnicodeDecodeError):
        return False
    return content.endswith(b"\n")


def _mend_rwlock(repo: Repo) -> str | None:
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    assert repo.tmp_dir is not None
    path = Path(repo.tmp_dir) / RWLOCK_FILE
    hardlinks = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(path.with_name(RWLOCK_LOCK)), tmp_dir=repo.tmp_dir, hardlink_lock=hardlinks):
        if not path.exists():
            return None
        try:
            entries = {"write": {}, "read": {}, **json.loads(path.read_bytes())}
        except ValueError:
            write_atomically(path, b"{}")
            return f"{os.path.relpath(path)} was not whole (was dvc killed while it wrote it?): emptied"
        ours = _of_dvc(entries)
        if ours == entries:
            return None
        write_atomically(path, json.dumps(ours).encode())
        return f"{os.path.relpath(path)} named ended processes whose numbers are in use again: removed"


def _of_dvc(entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entries of a lock file without those of processes that are no DVC; DVC removes those that have ended."""
    return {
        "write": {path: info for path, info in entries["write"].items() if _may_be_dvc(info["pid"])},
        "read": {path: [info for info in infos if _may_be_dvc(info["pid"])] for path, infos in entries["read"].items()},
    }


def _may_be_dvc(pid: int) -> bool:
    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return True
