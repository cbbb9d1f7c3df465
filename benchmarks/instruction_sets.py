"""Measuring what a CPU with narrower vectors would do, on one with wider ones.

The limits are the libraries' own environment variables, read when they are loaded. What else differs between CPUs, such
as clock and caches, stays as it is.
"""

from __future__ import annotations

import os
import sys

LIMITS = {
    "avx2": {
        "CONDENSENET_LANES": "8",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
    "sse2": {
        "CONDENSENET_LANES": "4",
        "ONEDNN_MAX_CPU_ISA": "SSE41",  # oneDNN's lowest
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",  # MKL's lowest
        "ATEN_CPU_CAPABILITY": "default",
    },
}


def limit(name: str | None) -> None:
    """Start this script again under the limits of ``name``, unless they are in force or none is asked for."""
    variables = LIMITS[name] if name else {}
    if any(os.environ.get(key) != value for key, value in variables.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **variables})
