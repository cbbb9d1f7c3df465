"""What an input that anyone may have written may take: so much time and, beyond what was in use before, memory."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SANITIZED = "ASAN_OPTIONS" in os.environ  # slower, and keeps what was freed
LIMIT_S = 100.0 if SANITIZED else 10.0
LIMIT_BYTES = (16 if SANITIZED else 2) * 2**30


@contextmanager
def within_bounds() -> Iterator[None]:
    """Raises ``AssertionError`` if the block takes more than ``LIMIT_S`` or ``LIMIT_BYTES``, by its peak."""
    before, began = reset_peak(), time.monotonic()
    try:
        yield
    finally:  # also when it is refused
        seconds, taken = time.monotonic() - began, peak() - before
        assert seconds < LIMIT_S, f"it took {seconds:.1f} s"
        assert taken < LIMIT_BYTES, f"it took {taken / 2**20:.0f} MiB"


def reset_peak() -> int:
    """Lets ``peak`` begin anew, where the system can (Linux); returns bytes in use."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most bytes that this process had in memory since ``reset_peak``."""
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return int(match[1] if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
