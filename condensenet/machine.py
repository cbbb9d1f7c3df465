"""The machine this process runs on. Nothing here imports torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def usable_cores() -> int:
    """The number of cores that this process may use; in a container it may be smaller than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> dict[str, Any]:
    """A description of the machine: cpu, cores (usable), architecture, memory_gib, os."""
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else 0
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "architecture": platform.machine(),
        "memory_gib": round(memory / 2**30, 1),
        "os": f"{platform.system()} {platform.release()}",
    }


def _cpu_name() -> str:
    """The CPU's model name. Many ARM boards lack one; for them, the name of the board or the CPU's part number."""
    for path, key in (
        ("/proc/cpuinfo", "model name"),
        ("/proc/device-tree/model", None),
        ("/proc/cpuinfo", "CPU part"),
    ):
        try:
            text = Path(path).read_text(errors="replace")
        except OSError:
            continue
        lines = (
            [text] if key is None else [line.partition(":")[2] for line in text.splitlines() if line.startswith(key)]
        )
        if lines:
            return lines[0].strip(" \0\n") or "unknown"
    return platform.processor() or "unknown"
