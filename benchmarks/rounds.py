"""Rounds of a measurement that must be done by a certain time."""

from __future__ import annotations

import time
from collections.abc import Iterator


def in_time(rounds: range, until: float) -> Iterator[int]:
    """The numbers of the rounds to run; negative ones are for warming up.

    Stops early when another round, as long as the longest so far, would not finish before ``until`` (a time of
    ``time.monotonic``), but never before the end of round 0.
    """
    longest_s = 0.0
    for number in rounds:
        started = time.monotonic()
        if number > 0 and started + longest_s > until:
            return
        yield number
        longest_s = max(longest_s, time.monotonic() - started)
