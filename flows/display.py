"""Progress of a flow on standard output: a live line for each running stage at a terminal, plain lines elsewhere.

The full output of every stage goes to the flow's log and to ``state/logs/``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from tasks.console import say

PLAIN_INTERVAL_S = 10.0


class Display:
    """Receives each stage's start, lines of output and result, and notes about the flow itself.

    This one shows nothing: it serves a worker's flows, whose log has everything.
    """

    def started(self, stage: str) -> None: ...

    def line(self, stage: str, text: str) -> None: ...

    def finished(self, stage: str, result: str) -> None: ...

    def note(self, text: str) -> None: ...


class PlainDisplay(Display):
    """One line when a stage ends, and at most one line of its output every ten seconds."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def started(self, stage: str) -> None:
        self._last[stage] = time.monotonic()

    def line(self, stage: str, text: str) -> None:
        now = time.monotonic()
        if now - self._last.get(stage, now) >= PLAIN_INTERVAL_S:
            self._last[stage] = now
            self._print(f"  {stage}: {text}")

    def finished(self, stage: str, result: str) -> None:
        self._print(f"{stage} {result}")

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        with self._lock:
            say(f"{time.monotonic() - self._started_at:5.0f} s  {text}")


class LiveDisplay(Display):
    """A live line for each running stage, and a permanent one for each finished stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rows: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._started_at = time.monotonic()

    def started(self, stage: str) -> None:
        with self._lock:
            self._rows[stage] = self._progress.add_task(stage, total=None, text="")

    def line(self, stage: str, text: str) -> None:
        if stage in self._rows:
            self._progress.update(self._rows[stage], text=text)

    def finished(self, stage: str, result: str) -> None:
        with self._lock:
            row = self._rows.pop(stage, None)
        if row is not None:
            self._progress.remove_task(row)
        self.note(f"{stage} {result}")

    def note(self, text: str) -> None:
        line = f"{time.monotonic() - self._started_at:5.0f} s  {text}"
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def terminal_display() -> Iterator[Display]:
    """The display that suits this process's standard output."""
    if not sys.stdout.isatty():
        yield PlainDisplay()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=Console(), transient=True) as progress:
        yield LiveDisplay(progress)
