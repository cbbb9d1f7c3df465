"""How long small ONNX graphs take on this machine, and a file that remembers it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.deploy.runtime import open_session, versions
from condensenet.files import write_atomically
from condensenet.machine import hardware

FORMAT = "condensenet lowering times 1"
HOPELESS = 4  # times as long as the fastest


def this_machine(threads: int) -> dict[str, Any]:
    """What a measured time depends on besides the graph."""
    found = hardware()
    return {
        "cpu": found["cpu"],
        "architecture": found["architecture"],
        "onnxruntime": versions()["onnxruntime"],
        "threads": threads,
    }


def time_in_turn(models: Mapping[str, Any], shape: tuple[int, ...], threads: int, rounds: int) -> dict[str, float]:
    """Medians in microseconds of the ``ModelProto`` s on one random image (1, *shape), each run once a round.

    One that the runtime cannot load, as an older one cannot all operators, has no time. One that takes several times
    as long as the fastest in the first rounds keeps the time that it had there, and is not run again.
    """
    sessions = {name: session for name, model in models.items() if (session := _session(model, threads)) is not None}
    image = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    first = {name: min(_run(session, image) for _ in range(2)) for name, session in sessions.items()}
    close = [name for name in sessions if first[name] < HOPELESS * min(first.values())]
    times: dict[str, list[float]] = {name: [] for name in close}
    for _ in range(rounds):
        for name in close:
            times[name].append(_run(sessions[name], image))
    return {name: round(float(np.median(times[name])) if name in times else first[name], 1) for name in sessions}


def _run(session: Any, image: np.ndarray) -> float:
    """Microseconds of one run."""
    feed = {session.get_inputs()[0].name: image}
    start = time.perf_counter_ns()
    session.run(None, feed)
    return (time.perf_counter_ns() - start) / 1e3


def _session(model: Any, threads: int) -> Any | None:
    try:
        return open_session(model.SerializeToString(), threads)
    except ValueError:  # an operator or opset that this runtime does not know
        return None


class Times:
    """Measured times by key, kept in a file if there is one to keep them in.

    The file is written whole after every entry, so that whoever is killed loses no more than the entry at hand. A
    damaged file is left out with a warning, and replaced; where none can be written, a warning says so, once.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, dict[str, float]] = {} if path is None else _read(path)

    def get(self, key: Mapping[str, Any]) -> dict[str, float]:
        """The times by variant; empty if there are none."""
        return dict(self._entries.get(_text(key), {}))

    def put(self, key: Mapping[str, Any], times: Mapping[str, float]) -> None:
        self._entries[_text(key)] = dict(times)
        if self._path is None:
            return
        self._entries = {**_read(self._path), **self._entries}  # another planner may have written meanwhile
        content = {"format": FORMAT, "times_us": self._entries}
        try:
            write_atomically(self._path, json.dumps(content, indent=0).encode())
        except OSError as error:  # a plan is worth having also where its times cannot be kept
            warnings.warn(f"{self._path} cannot be written, so the times are not kept: {error.strerror}", stacklevel=4)
            self._path = None


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"it does not say {FORMAT!r}")
        return {
            str(key): {str(name): _positive(time) for name, time in times.items()}
            for key, times in content["times_us"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        warnings.warn(f"{path} is left out, it holds no times: {' '.join(str(error).split())}", stacklevel=4)
        return {}


def _positive(time: Any) -> float:
    if not 0 < float(time) < float("inf"):
        raise ValueError(f"{time} microseconds cannot be")
    return float(time)
