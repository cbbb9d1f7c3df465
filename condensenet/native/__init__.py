"""Dense blocks as one operator each, in C, for ONNX Runtime: the fastest form, where its library could be built.

``write_native`` is imported when it is first used: who runs a file needs neither torch nor onnx.
"""

from __future__ import annotations

import functools
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensenet import compiled

if TYPE_CHECKING:
    from condensenet.native.writing import write_native

__all__ = ["operator_library", "write_native"]


@functools.cache
def operator_library() -> Path | None:
    """The library of operators that a session has to register for a native file; None where it was not built."""
    found = compiled.load("condensenet.native._operators")
    return None if found is None else Path(found._name)


def __getattr__(name: str) -> Any:
    if name != "write_native":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("condensenet.native.writing").write_native
