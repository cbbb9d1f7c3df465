"""Times the ONNX files whose paths come in, one a line, as the command does; answers with one line of JSON each.

A process of its own: a file that ends it, or that takes too long, ends no test.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bounds import LIMIT_S, peak


@dataclass(frozen=True)
class Answer:
    status: int
    lines: list[str]  # of standard error
    seconds: float
    peak_bytes: int  # of the process so far


class Worker:
    """The other process, seen from the test; started again after a file that has ended it."""

    def __init__(self) -> None:
        self._process = started()

    def time(self, path: Path) -> Answer:
        """Raises ``AssertionError`` if the process ends or does not answer within ``LIMIT_S``."""
        if self._process.poll() is not None:
            self._process = started()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(LIMIT_S, process.kill)
        alarm.start()
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        alarm.cancel()
        assert answer, f"the process ended with status {process.wait()}, or was killed after {LIMIT_S:.0f} s"
        return Answer(**json.loads(answer))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def started() -> subprocess.Popen[str]:
    """The process, once it waits for files."""
    command = [sys.executable, __file__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@contextmanager
def running() -> Iterator[Worker]:
    worker = Worker()
    try:
        yield worker
    finally:
        worker.end()


def main() -> None:
    from condensenet.deploy.latency.__main__ import main as command

    print("ready", flush=True)
    for line in sys.stdin:
        began, errors = time.monotonic(), io.StringIO()
        status = 0
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            try:
                command([line.rstrip("\n"), "--threads", "1"])
            except SystemExit as end:
                status = 1
                errors.write(str(end.code))
        answer = {"status": status, "lines": errors.getvalue().splitlines()}
        print(json.dumps({**answer, "seconds": time.monotonic() - began, "peak_bytes": peak()}), flush=True)


if __name__ == "__main__":
    main()
