"""Numbers that the user gives in environment variables."""

from __future__ import annotations

import os
from contextlib import suppress

from condensenet.text import shown
from tasks.errors import UserError

MOST = 100_000


def count(variable: str) -> int | None:
    """The whole number in ``variable``, None if it is not set; raises ``UserError``."""
    value = os.environ.get(variable)
    if value is None:
        return None
    if not value.isdecimal() or len(value) > len(str(MOST)) or not 1 <= int(value) <= MOST:
        raise UserError(f"{variable}={shown(value)} is not allowed: it must be 1 to {MOST}")
    return int(value)


def gigabytes(variable: str, default: float) -> float:
    """The number above 0 in ``variable``, ``default`` if it is not set.

    Raises ``ValueError``, which ends a training where another error has Ray try again.
    """
    value = os.environ.get(variable)
    if value is None:
        return default
    with suppress(ValueError):
        if float(value) > 0:  # nan is not
            return float(value)
    raise ValueError(f"{variable}={shown(value)} is not allowed: it must be a number of GB above 0")
