"""Files that are whole or not there. Nothing here imports torch."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def is_refusal(error: BaseException) -> bool:
    """Whether the disk is full or closed to us: trying again would come to the same end."""
    return isinstance(error, OSError) and error.errno in REFUSALS


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file beside ``path``, flushed to disk before it takes the name.

    Makes the folder. Who reads meanwhile sees the old content or the new one, never a part.
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
