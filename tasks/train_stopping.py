"""SIGTERM and Ctrl-C: the workers save a checkpoint and end, then the stage ends with status 143 or 130.

The stage leaves a file in the training's storage. Rank 0 looks for it after every step (in an object store: once a
second), and all ranks stop after the same step. Workers that do not exist yet or do not answer in time are killed: only
the steps since the last checkpoint are lost, because files are written atomically.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from tasks import train_worker
from tasks.console import say
from tasks.lease import LeaseLost
from tasks.ray_watch import abandon
from tasks.storage import TrainingStorage

GRACE_S = 15.0  # a flow that is stopped gives its stages 20 s, a Kubernetes pod has 30
PARENT_POLL_S = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopper:
    """Handles signals to stop. Create it in the main thread, before work begins."""

    def __init__(self) -> None:
        self.signal: int | None = None  # received
        self._storage: TrainingStorage | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        if "DVC_STAGE" in os.environ:
            threading.Thread(target=_stop_when_parent_dies, args=(os.getppid(),), daemon=True).start()

    @contextmanager
    def training(self, storage: TrainingStorage) -> Iterator[None]:
        """While workers use ``storage``, a signal asks them to save first. At other times it ends the stage."""
        for name in (train_worker.STOP, train_worker.PAUSED):
            storage.delete(name)
        self._storage = storage
        yield
        self._storage = None

    def end(self) -> NoReturn:
        """Kill what Ray started and exit. Works during a call into Ray too, which would swallow an exception."""
        abandon()  # first: a store that does not answer may delay the message
        say(self._exit_message())
        os._exit(128 + (self.signal or signal.SIGTERM))

    def _on_signal(self, number: int, _frame: object) -> None:
        repeated, self.signal = self.signal is not None, number
        if repeated or self._storage is None:
            self.end()
        kill_timer = threading.Timer(GRACE_S, self.end)
        kill_timer.daemon = True
        kill_timer.start()
        try:
            if not self._storage.is_held(train_worker.LOCK):  # no rank 0 is at work
                self.end()
            say("stopping: waiting for the workers to save")
            self._storage.write(train_worker.STOP, b"")
        except (OSError, LeaseLost):  # a full disk, a store that does not answer, or is another stage's now
            self.end()

    def _exit_message(self) -> str:
        with suppress(OSError):
            if self._storage is not None:
                paused = self._storage.read(train_worker.PAUSED).decode()
                return f"{paused}: run it again to resume from there"
        return "stopped: run it again to resume from the last checkpoint"


def _stop_when_parent_dies(parent: int) -> None:
    """Stop when DVC dies: it does not forward signals, and a surviving training would block the next run."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
