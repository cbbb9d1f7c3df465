"""The bounds by which tests that generate their input judge time and memory: they notice what they are to notice."""

from __future__ import annotations

import json
import time

import bounds
import numpy as np
import pytest

MIB = 2**20


def test_memory_counts_also_if_it_was_freed_or_what_took_it_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LIMIT_BYTES", 100 * MIB)
    with bounds.within_bounds():
        np.ones(50 * MIB, dtype=np.uint8)
    for _ in range(2):  # what came before does not count, in either direction
        with pytest.raises(AssertionError, match=r"it took (2[0-9]{2}) MiB"), bounds.within_bounds():
            np.ones(200 * MIB, dtype=np.uint8)
    with pytest.raises(AssertionError, match="MiB"), bounds.within_bounds():
        json.loads(b"x" * (200 * MIB))  # a ValueError
    with bounds.within_bounds():
        np.ones(50 * MIB, dtype=np.uint8)


def test_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LIMIT_S", 0.01)
    with pytest.raises(AssertionError, match=r"it took \d"), bounds.within_bounds():
        time.sleep(0.02)
