"""Random numbers as a pure function of what they are for: (seed, epoch, image index, purpose).

So neither the worker that loads an image, nor its position in a batch, nor a restart changes its augmentation. The
mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
OOPSLA 2014). It is written out here so that no library update can change the numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
PERMUTATION, CROP_TOP, CROP_LEFT, FLIP, RESIZED_CROP = range(5)  # purposes; a resized crop also uses those that follow
RANDAUGMENT = 1000  # and those that follow


def bits(seed: int, epoch: int, indices: np.ndarray, purpose: int | np.ndarray) -> np.ndarray:
    """64 random bits for each of ``indices`` and ``purpose``: uint64, of the shape that these broadcast to."""
    state = _mix(_epoch_state(seed, epoch) + np.asarray(purpose).astype(np.uint64))
    return _mix(state + indices.astype(np.uint64))


def uniform(seed: int, epoch: int, indices: np.ndarray, purpose: int | np.ndarray) -> np.ndarray:
    """float64 in [0, 1)."""
    return (bits(seed, epoch, indices, purpose) >> np.uint64(11)) * 2.0**-53


def below(limit: int, seed: int, epoch: int, indices: np.ndarray, purpose: int) -> np.ndarray:
    """int64 in 0..limit-1."""
    return (uniform(seed, epoch, indices, purpose) * limit).astype(np.int64)


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the images in an epoch: int64 (count,)."""
    return np.argsort(bits(seed, epoch, np.arange(count), PERMUTATION), kind="stable")


@lru_cache(maxsize=8)
def _epoch_state(seed: int, epoch: int) -> np.ndarray:
    """The state that all numbers of an epoch start from; cached, because every batch needs it."""
    return _mix(_mix(np.array([seed], dtype=np.uint64)) + np.array([epoch], dtype=np.uint64))


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(GOLDEN_GAMMA)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
