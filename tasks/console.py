"""Progress of a stage: a bar at a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
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


def progress(
    items: Iterable[T],
    total: int,
    label: str,
    amount: Callable[[T], int] = lambda item: 1,
    done: int = 0,
    units: str = "images",
) -> Iterator[T]:
    """Yield ``items`` and show how many of ``total`` are done, how many a second and how long the rest will take.

    An item counts as ``amount`` of the ``units``, of which ``done`` were done before.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, initial=done, desc=label, unit=f" {units}", leave=False) as bar:
            for item in items:
                yield item
                bar.update(amount(item))
        return
    started = last = time.monotonic()
    before = done
    for item in items:
        yield item
        done += amount(item)
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_S and done < total:
            last = now
            rate = (done - before) / (now - started)
            say(f"{label}: {done} of {total} {units}, {rate:.3g}/s, {duration((total - done) / rate)} left")


def size(count: float) -> str:
    """``count`` bytes, such as 85.2 MB or 1.42 TB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 999.5:  # what would be rounded to 1000 is shown in the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} EB"


def duration(seconds: float) -> str:
    """Such as 40 s, 12 min or 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
