"""One stage as one subprocess, ``dvc repro -s STAGE``: its output line by line, its lock, its result.

Each stage is supervised (``flows.supervise``): when the flow stops or dies, the stage and its children end too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from condensenet.file_locks import try_lock
from flows.dvc_recovery import recover
from tasks import paths
from tasks.locks import lock_file

Emit = Callable[[str], None]
Status = Literal["ran", "unchanged", "restored"]  # restored: from DVC's cache of earlier runs
RETRY_S = 2.0
DVC = (sys.executable, "-m", "dvc")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BUSY = re.compile(r"is busy, it is being blocked|Unable to acquire lock")
DVC_LINE = re.compile(
    r"ERROR: |WARNING: |Use `dvc |To track the changes|To enable auto staging|Generating lock|Updating lock"
    r"|Running stage |> |Stage '|Having any troubles|Data and pipelines are|\s+(git add|dvc config) |$"
)


class StageFailed(Exception):
    """The message is one line: what went wrong in the stage."""


class Stopped(Exception):
    """The flow is being stopped."""


@dataclass(frozen=True)
class Outcome:
    status: Status
    duration_s: float


class StageLog:
    """The full output of a stage's last run, ``state/logs/<stage>.log``."""

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
    """Runs stages from any number of threads and stops them all at once.

    ``variables`` are added to their environment. ``lifeline`` is a file that is kept open until all have ended.
    ``options`` are of ``dvc repro``.
    """

    def __init__(
        self, variables: Mapping[str, str] | None = None, lifeline: int | None = None, options: Sequence[str] = ()
    ) -> None:
        self._variables, self._options = variables or {}, options
        self._kept_open = [] if lifeline is None else [lifeline]
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()

    def run(self, stage: str, emit: Emit) -> Outcome:
        """Bring ``stage`` up to date and pass each line it prints to ``emit``. Raises ``StageFailed``, ``Stopped``.

        A second flow in the same workspace waits here until the stage is up to date.
        """
        with self._stage_lock(stage, emit) as lock:
            started = time.monotonic()
            repeated = False
            while True:
                code, lines = self._subprocess(stage, emit, lock)
                if self._stopping.is_set():
                    raise Stopped(stage)
                recovered = recover(emit)
                if code == 0:
                    return Outcome(_status(lines), time.monotonic() - started)
                if recovered and not repeated:
                    repeated = True
                    continue
                if not any(BUSY.search(line) for line in lines):
                    raise StageFailed(_last_error(lines, code))
                emit(f"{stage}: another dvc command is working on the same files; retrying")
                self.pause(RETRY_S)

    def pause(self, seconds: float) -> None:
        """Sleep; raises ``Stopped`` as soon as the flow is stopped."""
        if self._stopping.wait(seconds):
            raise Stopped

    def stop(self) -> None:
        """End every running stage with its children, and wait for their end."""
        self._stopping.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            assert process.stdin is not None
            process.stdin.close()
        for process in running:
            process.wait()

    def _subprocess(self, stage: str, emit: Emit, lock: IO[str]) -> tuple[int, list[str]]:
        last_lines: deque[str] = deque(maxlen=200)
        with self._lock:
            if self._stopping.is_set():
                raise Stopped(stage)
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "flows.supervise",
                    *DVC,
                    "--wait-for-lock",
                    "repro",
                    *self._options,
                    "-s",
                    stage,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**stage_environment(), **self._variables},
                start_new_session=True,
                pass_fds=[lock.fileno(), *self._kept_open],  # held until the stage ends, even if this process is killed
            )
            self._running.add(process)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                clean = ANSI.sub("", line).rstrip()
                if clean:
                    last_lines.append(clean)
                    emit(clean)
            return process.wait(), list(last_lines)
        finally:
            _end(process)  # if a line could not be passed on: nobody may be left to read it
            with self._lock:
                self._running.discard(process)

    @contextmanager
    def _stage_lock(self, stage: str, emit: Emit) -> Iterator[IO[str]]:
        with lock_file(f"{stage}.lock").open("w") as file:
            if not try_lock(file):
                emit(f"{stage}: another flow is running it; waiting")
                while not try_lock(file):
                    self.pause(0.2)
            yield file


def push_results(emit: Emit) -> list[str]:
    """Send outputs and DVC's cache of runs to the remote; an error line if that fails."""
    done = subprocess.run(
        [*DVC, "--wait-for-lock", "push", "--run-cache"],
        capture_output=True,
        text=True,
        env=stage_environment(),
        check=False,
    )
    lines = [ANSI.sub("", line) for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    for line in lines:
        emit(line)
    return [] if done.returncode == 0 else [f"dvc push: {_last_error(lines, done.returncode)}"]


@contextmanager
def signals_ignored() -> Iterator[None]:
    """No SIGTERM or Ctrl-C interrupts the block. Outside the main thread, which alone gets signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def stage_environment() -> dict[str, str]:
    """Stages find this flow's ``python`` and ``dvc`` first, even if the worker's PATH lacks them."""
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    }


def _end(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a stage that may save first; nothing happens to one that has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    with suppress(ValueError):  # it is closed
        for _ in process.stdout:
            pass
    process.wait()


def _status(lines: list[str]) -> Status:
    if any(line.startswith("Running stage ") for line in lines):
        return "ran"
    return "restored" if any("is cached - skipping run" in line for line in lines) else "unchanged"


def _last_error(lines: list[str], code: int) -> str:
    """The stage's last ``error: …`` line, else its last line, else DVC's last error."""
    stage_lines = [line for line in lines if not DVC_LINE.match(line)]
    errors = [line for line in stage_lines if line.startswith("error: ")]
    dvc_errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or stage_lines or dvc_errors or [f"exit status {code}"])[-1]
