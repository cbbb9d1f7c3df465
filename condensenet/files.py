"""Atomic writes: a file is either complete or absent. Nothing here imports torch."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

PERMANENT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def is_permanent_write_error(error: BaseException) -> bool:
    """Whether the disk is full or not writable for us, so that a retry would fail in the same way."""
    return isinstance(error, OSError) and error.errno in PERMANENT


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside ``path``, flush it to disk and rename it. Creates the folder if necessary.

    Concurrent readers see either the old content or the new, never a part of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
