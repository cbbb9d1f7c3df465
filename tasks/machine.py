"""A quiet machine: no latency is taken while another stage of this checkout computes.

Stages that compute (prepare, yardstick, train, convert, export, evaluate, report) run under ``shared()``; the
benchmark runs under ``exclusive()`` and waits for them, and so does export where it measures. Both are advisory
``flock`` locks, so the kernel frees them when a process dies, however it dies. Locks are per checkout: what else the
machine does is not seen.

A waiting benchmark does not keep other stages from starting: that would hold up the training of every other
setting. The stages of a study are finite, so the benchmark's turn comes, at the latest when they are all done.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tasks import files, paths

LOCK = "machine.lock"


@contextmanager
def shared() -> Iterator[None]:
    """Hold the machine together with other stages; waits while a benchmark runs."""
    with _locked(fcntl.LOCK_SH, "waiting for a benchmark to end: the machine is kept quiet for it"):
        yield


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the machine alone; waits until no stage holds it."""
    with _locked(fcntl.LOCK_EX, "waiting for other stages to end: a latency needs a quiet machine"):
        yield


@contextmanager
def _locked(kind: int, waiting: str) -> Iterator[None]:
    folder = paths.state()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        files.lock(file.fileno(), kind, waiting)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not left to close(): a forked child may hold the file open
