"""A copy of ``dvc.lock`` from which a damaged one is replaced.

DVC empties the file before it writes it, and refuses one that a kill or a power cut left empty or half written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from condensenet.files import write_atomically
from tasks import paths

DVC_LOCK = Path("dvc.lock")
_one_thread = threading.Lock()  # DVC's lock makes threads wait for half a second


def mend_or_copy(emit: Callable[[str], None]) -> bool:
    """Whether ``dvc.lock`` was damaged and has been replaced; one that is not is copied to ``state/``.

    Nothing is done while another process holds DVC's lock: that one reads ``dvc.lock``, or writes it just now.
    """
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    copy = Path(os.path.relpath(paths.state() / DVC_LOCK))
    with _one_thread, Repo(".") as repo:
        try:
            with repo.lock:
                try:
                    Lockfile(repo, str(DVC_LOCK)).load()
                except DvcException:
                    emit(_replace(copy))
                    return True
                if DVC_LOCK.exists():
                    write_atomically(copy, DVC_LOCK.read_bytes())
        except LockError:
            pass
        return False


def _replace(copy: Path) -> str:
    damaged = copy.with_name(f"{copy.name}.damaged")
    write_atomically(damaged, DVC_LOCK.read_bytes())
    if copy.exists():
        write_atomically(DVC_LOCK, copy.read_bytes())
    else:
        DVC_LOCK.unlink()
    how = "replaced by the copy after the last finished stage" if copy.exists() else "removed, no stage had finished"
    return f"{DVC_LOCK} cannot be read (was dvc killed while it wrote it?): {how}; the damaged file is {damaged}"
