"""One stage as one subprocess, ``dvc repro -s STAGE``: its output line by line, its lock, its end.

Every stage is on a leash (``flows.leash``): it ends with all that it started when the flow stops, or dies.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from condensenet.locks import try_lock
from tasks import paths
from tasks.locks import lock_file

Emit = Callable[[str], None]
RETRY_S = 2.0
DVC = (sys.executable, "-m", "dvc")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BUSY = re.compile(r"is busy, it is being blocked|Unable to acquire lock")
DVC_LINE = re.compile(
    r"ERROR: |WARNING: |Use `dvc |To track the changes|To enable auto staging|Generating lock|Updating lock"
    r"|Running stage |> |Stage '|Having any troubles|Data and pipelines are|\s+(git add|dvc config) |$"
)


class StageFailed(Exception):
    """Its message is one line: what went wrong in the stage."""


class Stopped(Exception):
    """The flow was told to stop."""


@dataclass(frozen=True)
class Outcome:
    how: Literal["ran", "unchanged", "restored"]  # restored: from DVC's cache of earlier runs
    seconds: float


class StageLog:
    """All that a stage printed in its last run, ``state/logs/<stage>.log``."""

    def __init__(self, stage: str) -> None:
        self.path = Path(os.path.relpath(paths.state() / "logs" / f"{stage}.log"))

    def __enter__(self) -> StageLog:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w")
        return self

    def write(self, line: str) -> None:
        self._file.write(f"{line}\n")
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()


class StageRunner:
    """Runs stages from any number of threads and stops them all at once."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()

    def run(self, stage: str, emit: Emit) -> Outcome:
        """Bring ``stage`` up to date; every line it prints goes to ``emit``. Raises ``StageFailed``, ``Stopped``.

        A second flow in the same workspace waits here, and then finds the stage up to date.
        """
        with self._stage_lock(stage, emit) as lock:
            started = time.monotonic()
            while True:
                code, lines = self._subprocess(stage, emit, lock)
                if self._stopping.is_set():
                    raise Stopped(stage)
                if code == 0:
                    return Outcome(_how(lines), time.monotonic() - started)
                if not any(BUSY.search(line) for line in lines):
                    raise StageFailed(_last_error(lines, code))
                emit(f"{stage}: another dvc command is at work on the same files; trying again")
                self.pause(RETRY_S)

    def pause(self, seconds: float) -> None:
        """Sleep, unless the flow is stopped: then ``Stopped``."""
        if self._stopping.wait(seconds):
            raise Stopped

    def stop(self) -> None:
        """End every running stage and wait until all is gone that it started."""
        self._stopping.set()
        with self._guard:
            running = list(self._running)
        for process in running:
            assert process.stdin is not None
            process.stdin.close()
        for process in running:
            process.wait()

    def _subprocess(self, stage: str, emit: Emit, lock: IO[str]) -> tuple[int, list[str]]:
        tail: deque[str] = deque(maxlen=200)
        with self._guard:
            if self._stopping.is_set():
                raise Stopped(stage)
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.leash", *DVC, "--wait-for-lock", "repro", "-s", stage],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=stage_environment(),
                start_new_session=True,
                pass_fds=[lock.fileno()],  # held until all is gone, also when this process is killed before
            )
            self._running.add(process)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                clean = ANSI.sub("", line).rstrip()
                if clean:
                    tail.append(clean)
                    emit(clean)
            return process.wait(), list(tail)
        finally:
            with self._guard:
                self._running.discard(process)

    @contextmanager
    def _stage_lock(self, stage: str, emit: Emit) -> Iterator[IO[str]]:
        with lock_file(f"{stage}.lock").open("w") as file:
            if not try_lock(file):
                emit(f"{stage}: another flow is at work on it; waiting")
                while not try_lock(file):
                    self.pause(0.2)
            yield file


def stage_environment() -> dict[str, str]:
    """``python`` and ``dvc`` in a stage are those that run this flow, also under a worker with another PATH."""
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    }


def _how(lines: list[str]) -> Literal["ran", "unchanged", "restored"]:
    if any(line.startswith("Running stage ") for line in lines):
        return "ran"
    return "restored" if any("is cached - skipping run" in line for line in lines) else "unchanged"


def _last_error(lines: list[str], code: int) -> str:
    """What the stage said last, an ``error: …`` line of its own before all, else what DVC said."""
    own = [line for line in lines if not DVC_LINE.match(line)]
    for choice in (
        [line for line in own if line.startswith("error: ")],
        own,
        [line for line in lines if line.startswith("ERROR: ")],
    ):
        if choice:
            return choice[-1]
    return f"exit status {code}"
