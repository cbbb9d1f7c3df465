"""How long ONNX files take, next to a reference model ("yardstick") that is timed alternately with them.

Protocol: all models are loaded in one process. In every round after the warm-up, each model runs once untimed, then the
reference model and the model run once more, on the same random images. So either finds the caches as the other leaves
them, whatever else is in the round: without the untimed run the reference model alone, which runs before every other,
found its weights in the cache (ratios 2 to 6% higher). A small model that ran after one of its own kind took 0.6 of the
time. What slows the machine for a while slows both, so the ratio of each pair varies less than the latencies do. Idle
threads do not spin: the thread pools of several models would take the cores from one another (measured on two cores: 2
to 4 times the latency).

``onnxruntime`` is imported only when a file is opened, and torch not at all: this runs where models are deployed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.deploy.runtime import open_session
from condensenet.machine import usable_cores
from condensenet.text import message_of, shown

MIN_RUNS, WARMUP = 50, 10  # rounds that count, and those before
MAX_RUNS = 100_000  # more only takes longer: the median no longer changes
MAX_THREADS = 1024  # the runtime itself has no limit
MAX_INPUT_BYTES = 2**31  # of a batch of images; what a network makes of them takes several times as much


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of a model and of the reference model, in milliseconds per batch; ``p10`` and ``p90`` are percentiles.

    ``ratio`` is the median over the rounds of (the model's time / the time of the reference run before it).
    """

    model: str
    batch: int
    threads: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    yardstick_median_ms: float
    yardstick_p10_ms: float
    yardstick_p90_ms: float
    ratio: float
    ratio_p10: float
    ratio_p90: float
    images_per_second: float


def summarise(model: str, batch: int, threads: int, times_ms: np.ndarray, yardstick_ms: np.ndarray) -> Latency:
    """Median and percentiles of the times (R,) of R rounds, of a model and of the reference runs before it."""
    if times_ms.shape != yardstick_ms.shape or times_ms.ndim != 1 or times_ms.size == 0:
        raise ValueError(f"rounds do not pair: times {times_ms.shape}, yardstick {yardstick_ms.shape}")
    p10, median, p90 = np.percentile(times_ms, (10, 50, 90))
    yardstick_p10, yardstick_median, yardstick_p90 = np.percentile(yardstick_ms, (10, 50, 90))
    ratio_p10, ratio, ratio_p90 = np.percentile(times_ms / yardstick_ms, (10, 50, 90))
    return Latency(
        model=model,
        batch=batch,
        threads=threads,
        median_ms=float(median),
        p10_ms=float(p10),
        p90_ms=float(p90),
        yardstick_median_ms=float(yardstick_median),
        yardstick_p10_ms=float(yardstick_p10),
        yardstick_p90_ms=float(yardstick_p90),
        ratio=float(ratio),
        ratio_p10=float(ratio_p10),
        ratio_p90=float(ratio_p90),
        images_per_second=1000 * batch / float(median),
    )


def measure_latency(
    models: Mapping[str, str | Path],
    *,
    yardstick: str,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int] = (1, 0),
    runs: int = MIN_RUNS,
    warmup: int = WARMUP,
) -> list[Latency]:
    """Time the ONNX files ``models`` (name to path) in turn with the one called ``yardstick``, the reference model:
    a row for each other model, batch size and number of threads (0: all usable cores).

    Each file has one float32 input (batch, ...), of the same shape except for the batch. Raises ``ValueError`` for
    fewer than 50 runs, for files that differ in shape, cannot be loaded or do not run on such a batch, for a batch
    that does not fit into memory, and for a yardstick that is not in ``models``.
    """
    if yardstick not in models or len(models) < 2:
        raise ValueError(f"{yardstick=} is not allowed: it must be one of at least two models: {', '.join(models)}")
    check_protocol(batch_sizes, threads, runs, warmup)
    rows = []
    for count in dict.fromkeys(number or usable_cores() for number in threads):
        sessions = {name: open_session(models[name], count) for name in dict.fromkeys((yardstick, *models))}
        for batch in dict.fromkeys(batch_sizes):
            images = _random_images((batch, *_common_shape(sessions)))
            for name, session in sessions.items():
                _check_runs(name, session, images)
            times_ms = _time_rounds(sessions, yardstick, images, runs, warmup)
            rows += [summarise(name, batch, count, *times_ms[name]) for name in models if name != yardstick]
    return rows


def check_protocol(batch_sizes: Sequence[int], threads: Sequence[int], runs: int, warmup: int) -> None:
    """Raise a one-line ``ValueError`` for what ``measure_latency`` does not accept."""
    if not (MIN_RUNS <= runs <= MAX_RUNS and 1 <= warmup <= MAX_RUNS):
        raise ValueError(
            f"runs={shown(runs)}, warmup={shown(warmup)} is not allowed: at least {MIN_RUNS} runs after at least one "
            f"of warm-up, at most {MAX_RUNS} of each"
        )
    if min(batch_sizes, default=0) < 1 or not all(0 <= count <= MAX_THREADS for count in threads or [-1]):
        allowed = f"batches of 1 or more, threads of 0 (all) to {MAX_THREADS}"
        raise ValueError(f"batch_sizes={shown(batch_sizes)}, threads={shown(threads)} is not allowed: {allowed}")


def input_shape(path: str | Path) -> tuple[int, ...]:
    """The shape (channels, height, width) of one input image of the file at ``path``."""
    return _image_shape(open_session(path, threads=1))


def _image_shape(session: Any) -> tuple[int, ...]:
    return tuple(session.get_inputs()[0].shape[1:])


def _common_shape(sessions: Mapping[str, Any]) -> tuple[int, ...]:
    shapes = {name: _image_shape(session) for name, session in sessions.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the models take images of different shapes, so their times do not compare: {shapes}")
    return next(iter(shapes.values()))


def _random_images(shape: tuple[int, ...]) -> np.ndarray:
    try:
        if 4 * math.prod(shape) > MAX_INPUT_BYTES:
            raise MemoryError
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    except MemoryError:
        raise ValueError(f"images {shown(shape)} do not fit into memory") from None


def _check_runs(name: str, session: Any, images: np.ndarray) -> None:
    """Raise a one-line ``ValueError`` for a file that loads but does not run: another type, a fixed batch."""
    try:
        session.run(None, {session.get_inputs()[0].name: images})
    except Exception as error:  # the runtime raises a class of its own for each reason
        why = message_of(error)
        raise ValueError(f"{name} does not run on images {images.shape}: {why}") from error


def _time_rounds(
    sessions: Mapping[str, Any], yardstick: str, images: np.ndarray, runs: int, warmup: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each model, (its times, those of the reference runs before it), in milliseconds (runs,)."""

    feeds = {name: {session.get_inputs()[0].name: images} for name, session in sessions.items()}

    def timed_ms(name: str) -> float:
        start = time.perf_counter_ns()
        sessions[name].run(None, feeds[name])
        return (time.perf_counter_ns() - start) / 1e6

    others = [name for name in sessions if name != yardstick]
    times_ms = {name: (np.empty(runs), np.empty(runs)) for name in others}
    for run in range(-warmup, runs):
        for name in others:
            timed_ms(name)
            reference_ms, model_ms = timed_ms(yardstick), timed_ms(name)
            if run >= 0:
                times_ms[name][0][run], times_ms[name][1][run] = model_ms, reference_ms
    return times_ms
