"""How long ONNX files take, beside a yardstick that is timed in turn with them.

Protocol: all models are loaded in one process; after the warm-up every round runs each of them once, right after a run
of the yardstick, on the same random images. So whatever slows the machine for a while slows both, and the ratio to the
yardstick, taken pair by pair, is steadier than the latencies are. And each finds the caches as the yardstick leaves
them: after one of its own kind a small model took 0.6 of that. Threads do not spin when idle: the thread pools of
several models would take the cores from one another (seen on two cores: 2 to 4 times the latency).

``onnxruntime`` is imported only when a file is opened, and torch not at all: this runs where models are deployed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.deploy.runtime import open_session
from condensenet.machine import usable_cores

MIN_RUNS = 50
MAX_THREADS = 1024  # the runtime makes as many as it is told to


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of one model beside the yardstick's, in milliseconds a batch; ``p10`` and ``p90`` are percentiles.

    ``ratio`` is the median over the rounds of (model's time / time of the yardstick's run before it).
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
    """Median and spread of the rounds' times (R,) of a model and of the yardstick, in the same order."""
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
    warmup: int = 10,
) -> list[Latency]:
    """Time the ONNX files ``models`` (name to path) in turn: a row for each model but the yardstick, batch size and
    number of threads (0: all usable cores).

    Each file has one float32 input (batch, ...); beyond the batch they must all agree. Raises ``ValueError`` for
    fewer than 50 runs, for files that do not agree, cannot be loaded or do not run on such a batch, for a batch that
    does not fit into memory, and for a yardstick that is not in ``models``.
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
                _try(name, session, images)
            times_ms = _rounds(sessions, yardstick, images, runs, warmup)
            rows += [summarise(name, batch, count, *times_ms[name]) for name in models if name != yardstick]
    return rows


def check_protocol(batch_sizes: Sequence[int], threads: Sequence[int], runs: int, warmup: int) -> None:
    """Raise ``ValueError`` in one line for what ``measure_latency`` does not take."""
    if runs < MIN_RUNS or warmup < 1:
        raise ValueError(f"{runs=}, {warmup=} is not allowed: at least {MIN_RUNS} runs after at least one of warm-up")
    if min(batch_sizes, default=0) < 1 or not all(0 <= count <= MAX_THREADS for count in threads or [-1]):
        allowed = f"batches of 1 or more, threads of 0 (all) to {MAX_THREADS}"
        raise ValueError(f"{batch_sizes=}, {threads=} is not allowed: {allowed}")


def input_shape(path: str | Path) -> tuple[int, ...]:
    """The shape (channels, height, width) of one image of the file at ``path``."""
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
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    except MemoryError:
        raise ValueError(f"images {shape} do not fit into memory") from None


def _try(name: str, session: Any, images: np.ndarray) -> None:
    """Raise ``ValueError`` in one line for a file that loads and does not run: another type, a fixed batch."""
    try:
        session.run(None, {session.get_inputs()[0].name: images})
    except Exception as error:  # the runtime has an exception class for every reason
        raise ValueError(f"{name} does not run on images {images.shape}: {' '.join(str(error).split())}") from error


def _rounds(
    sessions: Mapping[str, Any], yardstick: str, images: np.ndarray, runs: int, warmup: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times in milliseconds (runs,) of each session but the yardstick's, and of the yardstick's run before each."""

    feeds = {name: {session.get_inputs()[0].name: images} for name, session in sessions.items()}

    def timed_ms(name: str) -> float:
        start = time.perf_counter_ns()
        sessions[name].run(None, feeds[name])
        return (time.perf_counter_ns() - start) / 1e6

    others = [name for name in sessions if name != yardstick]
    times_ms = {name: (np.empty(runs), np.empty(runs)) for name in others}
    for run in range(-warmup, runs):
        for name in others:
            before, own = timed_ms(yardstick), timed_ms(name)
            if run >= 0:
                times_ms[name][0][run], times_ms[name][1][run] = own, before
    return times_ms
