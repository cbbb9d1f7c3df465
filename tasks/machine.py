"""A quiet machine: no latency is taken while another stage of this checkout computes.

Stages that compute (prepare, yardstick, train, convert, export, evaluate, report) run under ``shared()``; the
benchmark runs under ``exclusive()`` and waits for them. Both are advisory ``flock`` locks, so the kernel frees
them when a process dies, however it dies. Locks are per checkout: what else the machine does is not seen.

A waiting benchmark holds the turnstile, so stages that start after it wait behind it and cannot starve it. For the
same reason neither lock may be taken twice by one stage: not nested, and not again in the processes it starts.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tasks import paths
from tasks.console import say

LOCK = "machine.lock"  # held while working: by many shared, or by one alone
TURNSTILE = "machine.turnstile"  # held while waiting for the lock above


@contextmanager
def shared() -> Iterator[None]:
    """Hold the machine together with other stages; waits while a benchmark runs or waits."""
    with _entered(fcntl.LOCK_SH, "waiting for a benchmark to end: the machine is kept quiet for it"):
        yield


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the machine alone; waits until the stages that hold it are done."""
    with _entered(fcntl.LOCK_EX, "waiting for other stages to end: a latency needs a quiet machine"):
        yield


@contextmanager
def _entered(kind: int, waiting: str) -> Iterator[None]:
    folder = paths.state()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        with (folder / TURNSTILE).open("a") as turnstile:
            told = _flock(turnstile.fileno(), fcntl.LOCK_EX, waiting)
            _flock(lock.fileno(), kind, None if told else waiting)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)


def _flock(descriptor: int, kind: int, waiting: str | None) -> bool:
    """Take the lock; says ``waiting`` and returns True if it was not free at once."""
    for pause_s in (0.0, 0.1):  # another stage on its way through the turnstile is not worth a line
        time.sleep(pause_s)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return False
    if waiting is not None:
        say(waiting)
    fcntl.flock(descriptor, kind)
    return True
