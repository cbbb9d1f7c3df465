"""The timing cache: measured times by workload and machine, in a JSON file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condensenet.files import read_regular, write_atomically
from condensenet.text import message_of

FORMAT = "condensenet lowering times 1"
MAX_BYTES = 2**26  # a network of a thousand layers takes half a million


class TimingCache:
    """Times by key, kept in a file if there is one.

    The file is rewritten after every entry, so a kill loses only the entry being measured. A damaged file is ignored
    with a warning and replaced. If no file can be written, one warning says so.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, dict[str, float]] = {} if path is None else _read(path)

    def get(self, key: Mapping[str, Any]) -> dict[str, float]:
        """Microseconds by variant; empty if there is no entry."""
        return dict(self._entries.get(_text(key), {}))

    def put(self, key: Mapping[str, Any], times_us: Mapping[str, float]) -> None:
        self._entries[_text(key)] = dict(times_us)
        if self._path is None:
            return
        self._entries = {**_read(self._path), **self._entries}  # another process may have written in the meantime
        content = {"format": FORMAT, "times_us": self._entries}
        try:
            write_atomically(self._path, json.dumps(content, indent=0).encode())
        except OSError as error:  # the plan is useful even if its times cannot be kept
            warnings.warn(f"{self._path} cannot be written, so the times are not kept: {error.strerror}", stacklevel=4)
            self._path = None


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        content = json.loads(read_regular(path, MAX_BYTES))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        return {
            str(key): {str(variant): _positive(time_us) for variant, time_us in times_us.items()}
            for key, times_us in content["times_us"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        warnings.warn(f"{path} is ignored, it is not a timing cache: {message_of(error)}", stacklevel=4)
        return {}


def _positive(time_us: Any) -> float:
    if not 0 < float(time_us) < float("inf"):
        raise ValueError(f"a time of {time_us} microseconds is impossible")
    return float(time_us)
