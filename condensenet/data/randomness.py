"""Random numbers that are a function of what they are for: (seed, epoch, image, draw), and of nothing else.

So neither the worker that loads an image, nor its place in a batch, nor a restart changes what happens to it.
The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, OOPSLA 2014); it is written out here so that no library's version can change the numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
PERMUTATION, SHIFT_ROWS, SHIFT_COLUMNS, FLIP, RESIZED_CROP = range(5)  # draws; a resized crop takes those that follow


def bits(seed: int, epoch: int, indices: np.ndarray, draw: int | np.ndarray) -> np.ndarray:
    """64 random bits for each of ``indices`` and ``draw``: uint64 of the shape to which these broadcast."""
    state = _mix(_stream(seed, epoch) + np.asarray(draw).astype(np.uint64))
    return _mix(state + indices.astype(np.uint64))


def uniform(seed: int, epoch: int, indices: np.ndarray, draw: int | np.ndarray) -> np.ndarray:
    """float64 in [0, 1)."""
    return (bits(seed, epoch, indices, draw) >> np.uint64(11)) * 2.0**-53


def below(limit: int, seed: int, epoch: int, indices: np.ndarray, draw: int) -> np.ndarray:
    """int64 in 0..limit-1."""
    return (uniform(seed, epoch, indices, draw) * limit).astype(np.int64)


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: int64 (count,)."""
    return np.argsort(bits(seed, epoch, np.arange(count), PERMUTATION), kind="stable")


@lru_cache(maxsize=8)
def _stream(seed: int, epoch: int) -> np.ndarray:
    """The state from which an epoch's draws go out; kept, since every batch asks for it."""
    return _mix(_mix(np.array([seed], dtype=np.uint64)) + np.array([epoch], dtype=np.uint64))


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
