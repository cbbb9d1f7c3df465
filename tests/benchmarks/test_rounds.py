"""Rounds that end in time."""

import pytest

from benchmarks import rounds


@pytest.mark.parametrize(
    ("durations", "until", "expected"),
    [
        ([1, 1, 1, 1], float("inf"), [-1, 0, 1, 2]),
        ([1, 1, 1, 1], 4.0, [-1, 0, 1, 2]),  # the last one ends exactly then
        ([1, 1, 1, 1], 3.9, [-1, 0, 1]),
        ([3, 1, 1, 1], 6.0, [-1, 0]),  # the warm-up took 3: another such round would end at 7
        ([5, 5, 5, 5], 1.0, [-1, 0]),  # never before round 0 is done
    ],
)
def test_no_round_begins_that_would_end_too_late(monkeypatch, durations, until, expected):
    clock = 0.0
    monkeypatch.setattr(rounds.time, "monotonic", lambda: clock)
    begun = []
    for number in rounds.in_time(range(-1, 3), until):
        begun.append(number)
        clock += durations[number + 1]
    assert begun == expected
