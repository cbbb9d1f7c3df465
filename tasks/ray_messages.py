"""Ray's messages in one line each. Of a lost node it prints forty lines of a log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

THREADS = "ray_"  # begins the names of Ray's own threads, and of ours that call Ray


@contextmanager
def brief_messages() -> Iterator[None]:
    """Inside the block Ray's threads print the first sentence of each message."""
    out, error = (cast(TextIO, Brief(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(error):
        yield


class Brief:
    """A stream on which Ray's threads say the first sentence alone; to others it is the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith(THREADS) and text.strip():
            text = text.strip().partition(". ")[0].splitlines()[0]
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
