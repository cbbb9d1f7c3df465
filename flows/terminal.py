"""What a person sees of a flow: a live line for every running stage at a terminal, plain lines elsewhere.

The whole output of every stage is in the flow's log and in ``state/logs/``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from tasks.console import say

PLAIN_INTERVAL_S = 10.0


class Watcher(Protocol):
    """Told of every stage: that it starts, each line it prints, how it ended; and of what concerns no stage."""

    def started(self, stage: str) -> None: ...

    def line(self, stage: str, text: str) -> None: ...

    def finished(self, stage: str, text: str) -> None: ...

    def note(self, text: str) -> None: ...


class Silent:
    """For flows that a worker runs: the flow's log says it all."""

    def started(self, stage: str) -> None: ...

    def line(self, stage: str, text: str) -> None: ...

    def finished(self, stage: str, text: str) -> None: ...

    def note(self, text: str) -> None: ...


class PlainLines:
    """A line at a stage's end, and at most one of its own lines every ten seconds."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._last: dict[str, float] = {}
        self._guard = threading.Lock()

    def started(self, stage: str) -> None:
        self._last[stage] = time.monotonic()

    def line(self, stage: str, text: str) -> None:
        now = time.monotonic()
        if now - self._last.get(stage, now) >= PLAIN_INTERVAL_S:
            self._last[stage] = now
            self._say(f"  {stage}: {text}")

    def finished(self, stage: str, text: str) -> None:
        self._say(f"{stage} {text}")

    def note(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        with self._guard:
            say(f"{time.monotonic() - self._begun:5.0f} s  {text}")


class LiveLines:
    """A line that moves for every running stage; a line that stays for every stage that ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rows: dict[str, TaskID] = {}
        self._guard = threading.Lock()
        self._begun = time.monotonic()

    def started(self, stage: str) -> None:
        with self._guard:
            self._rows[stage] = self._progress.add_task(stage, total=None, text="")

    def line(self, stage: str, text: str) -> None:
        if stage in self._rows:
            self._progress.update(self._rows[stage], text=text)

    def finished(self, stage: str, text: str) -> None:
        with self._guard:
            row = self._rows.pop(stage, None)
        if row is not None:
            self._progress.remove_task(row)
        self.note(f"{stage} {text}")

    def note(self, text: str) -> None:
        line = f"{time.monotonic() - self._begun:5.0f} s  {text}"
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def at_terminal() -> Iterator[Watcher]:
    """A watcher for the output that this process has."""
    if not sys.stdout.isatty():
        yield PlainLines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=Console(), transient=True) as progress:
        yield LiveLines(progress)
