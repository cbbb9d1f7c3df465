"""How long small ONNX graphs take on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from condensenet.deploy.runtime import open_session, versions
from condensenet.machine import hardware

TOO_SLOW = 4  # times as long as the fastest


def this_machine(threads: int) -> dict[str, Any]:
    """What a time depends on besides the graph."""
    info = hardware()
    return {
        "cpu": info["cpu"],
        "architecture": info["architecture"],
        "onnxruntime": versions()["onnxruntime"],
        "threads": threads,
    }


def time_in_turn(models: Mapping[str, Any], shape: tuple[int, ...], threads: int, rounds: int) -> dict[str, float]:
    """Median microseconds of each ``ModelProto`` on one random image (1, *shape); every round runs each model once.

    A model that this runtime cannot load, because an operator is too new, is left out. One that takes several times
    as long as the fastest in the first runs keeps that time and is not run again.
    """
    sessions = {name: session for name, model in models.items() if (session := _session(model, threads)) is not None}
    image = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    first_us = {name: min(_run_us(session, image) for _ in range(2)) for name, session in sessions.items()}
    close = [name for name in sessions if first_us[name] < TOO_SLOW * min(first_us.values())]
    times_us: dict[str, list[float]] = {name: [] for name in close}
    for _ in range(rounds):
        for name in close:
            times_us[name].append(_run_us(sessions[name], image))
    return {
        name: round(float(np.median(times_us[name])) if name in times_us else first_us[name], 1) for name in sessions
    }


def _run_us(session: Any, image: np.ndarray) -> float:
    feed = {session.get_inputs()[0].name: image}
    start = time.perf_counter_ns()
    session.run(None, feed)
    return (time.perf_counter_ns() - start) / 1e3


def _session(model: Any, threads: int) -> Any | None:
    try:
        return open_session(model.SerializeToString(), threads)
    except ValueError:  # this runtime lacks an operator or the opset
        return None
