"""What other processes are, asked so that one that ends meanwhile does no harm."""

from __future__ import annotations

import psutil


def command_line(process: psutil.Process) -> list[str]:
    """Its arguments; none once it has ended, also while nobody has waited for it."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
