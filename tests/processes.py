"""What other processes are, asked so that one that ends meanwhile does no harm."""

from __future__ import annotations

import psutil


def runs(process: psutil.Process) -> bool:
    """Whether it is at work: one that has ended, and for which nobody has waited yet, is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    """Its arguments; none once it has ended, also while nobody has waited for it."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
