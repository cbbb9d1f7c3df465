"""One process that uploads for all stages of a flow, so that not every stage imports MLflow (seconds of CPU each).

    with tracking.uploader():
        ...  # run stages

While it is on duty, stages only leave snapshots. It ends with the process that started it, however that ends: it waits
for the end of its standard input. A stage that finds nobody on duty uploads by itself, so nothing depends on it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tasks.console import say
from tasks.tracking import address, reconcile, snapshots

PAUSE_S = 1.0  # between two attempts
END_S = 120.0
CODE = str(Path(__file__).resolve().parents[2])  # the flow's own code, wherever it runs


@contextmanager
def uploader(emit: Callable[[str], None] = say) -> Iterator[None]:
    """Have an uploader on duty for this checkout; its messages go to ``emit``, line by line.

    At the end it uploads what is left, unless an exception ends the work, and is gone when this returns. Raises
    ``UserError`` for an address that cannot be.
    """
    address.uri()
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.track", "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [CODE, os.environ.get("PYTHONPATH")]))},
        start_new_session=True,  # Ctrl-C is for the flow, which ends this one
    )
    assert process.stdin is not None
    assert process.stdout is not None
    reader = threading.Thread(target=_pass_on, args=(process.stdout, emit), daemon=True)
    reader.start()
    patience_s = 0.0
    try:
        yield
        patience_s = END_S
    finally:
        process.stdin.close()
        _dismiss(process, patience_s)
        reader.join(1.0)


def _dismiss(process: subprocess.Popen[str], patience_s: float) -> None:
    """End the uploader: at once if nothing waits or nobody has time; what is left goes out with the next stage."""
    deadline = time.monotonic() + patience_s
    while process.poll() is None and snapshots.completed() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    process.wait()


def serve() -> None:
    """Be the uploader: upload until standard input ends."""
    os.nice(10)
    ended = threading.Event()
    threading.Thread(target=_await_end, args=(ended,), daemon=True).start()
    while not ended.is_set():
        reconcile.upload(ended=ended)
        ended.wait(PAUSE_S)  # another process uploads, or the store is unavailable
    reconcile.upload(wait_s=END_S / 2)  # what a stage left to it at the last moment


def _pass_on(lines: IO[str], emit: Callable[[str], None]) -> None:
    for line in lines:
        emit(line.rstrip())


def _await_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()
