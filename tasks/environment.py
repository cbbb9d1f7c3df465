"""Numbers that the user gives in environment variables."""

from __future__ import annotations

import os

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
