"""SIGTERM and Ctrl-C: the workers save a checkpoint and end, then the stage ends with status 143 or 130.

The stage leaves a file in the training's folder. Rank 0 looks for it after every step, and all ranks stop after the
same step. Workers that do not exist yet or do not answer in time are killed: only the steps since the last checkpoint
are lost, because files are written atomically.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from condensenet.file_locks import try_lock
from tasks import train_worker
from tasks.console import say
from tasks.outputs import write_text
from tasks.ray_watch import abandon

GRACE_S = 15.0  # a flow that is stopped gives its stages 20 s, a Kubernetes pod has 30
PARENT_POLL_S = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopper:
    """Handles signals to stop. Create it in the main thread, before work begins."""

    def __init__(self) -> None:
        self.signal: int | None = None  # received
        self._folder: Path | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        if "DVC_STAGE" in os.environ:
            threading.Thread(target=_stop_when_parent_dies, args=(os.getppid(),), daemon=True).start()

    @contextmanager
    def training(self, folder: Path) -> Iterator[None]:
        """While workers train in ``folder``, a signal asks them to save first. At other times it ends the stage."""
        for name in (train_worker.STOP, train_worker.PAUSED):
            (folder / name).unlink(missing_ok=True)
        self._folder = folder
        yield
        self._folder = None

    def end(self) -> NoReturn:
        """Kill what Ray started and exit. Works during a call into Ray too, which would swallow an exception."""
        say(self._exit_message())
        abandon()
        os._exit(128 + (self.signal or signal.SIGTERM))

    def _on_signal(self, number: int, _frame: object) -> None:
        repeated, self.signal = self.signal is not None, number
        if repeated or self._folder is None or not _at_work(self._folder):
            self.end()
        say("stopping: waiting for the workers to save")
        try:
            write_text(self._folder / train_worker.STOP, "")
        except OSError:  # a full disk
            self.end()
        kill_timer = threading.Timer(GRACE_S, self.end)
        kill_timer.daemon = True
        kill_timer.start()

    def _exit_message(self) -> str:
        paused = self._folder / train_worker.PAUSED if self._folder else None
        if paused is not None and paused.exists():
            return f"{paused.read_text()}: run it again to resume from there"
        return "stopped: run it again to resume from the last checkpoint"


def _stop_when_parent_dies(parent: int) -> None:
    """Stop when DVC dies: it does not forward signals, and a surviving training would block the next run."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _at_work(folder: Path) -> bool:
    """Whether a rank 0 holds the lock of the training."""
    with suppress(OSError), (folder / train_worker.LOCK).open() as file:
        return not try_lock(file, shared=True)
    return False
