"""Progress of a stage: a bar at a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from condensenet.text import escaped

T = TypeVar("T")
PLAIN_INTERVAL_S = 10.0


def say(line: str) -> None:
    """Print one line at once, also to a pipe; a reader that is gone does not stop the work.

    File and class names stand in it: what is not printable becomes an escape.
    """
    with suppress(BrokenPipeError):
        print(escaped(line), flush=True)


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield ``items`` and show how many of ``total`` are done."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False)
        return
    last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last >= PLAIN_INTERVAL_S and done < total:
            last = time.monotonic()
            say(f"{label}: {done} of {total}")
