"""Runs inside the emulation: calls of the compiled kernels as they were recorded, with the same arguments.

``calls.json`` is a list of [function, arguments]; an argument is a number, the name of an array in ``arrays.npz``, or
a list of such names for a structure of pointers. Every array comes back as the calls left it.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

THREADS = 2


def main(library: str, folder: Path) -> None:
    kernels = ctypes.CDLL(library)
    arrays = {name: aligned(array) for name, array in np.load(folder / "arrays.npz").items()}

    def as_c(argument: int | str | list[str]) -> object:
        if isinstance(argument, int):
            return ctypes.c_long(argument)
        if isinstance(argument, str):
            return ctypes.c_void_p(arrays[argument].ctypes.data)
        addresses = (arrays[name].ctypes.data for name in argument)
        return ctypes.byref((ctypes.c_void_p * len(argument))(*addresses))

    for name, arguments in json.loads((folder / "calls.json").read_text()):
        getattr(kernels, f"{name}_4")(ctypes.c_int(THREADS), *map(as_c, arguments))
    np.savez(folder / "after.npz", **arrays)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins on a cache line, as PyTorch's tensors do."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
