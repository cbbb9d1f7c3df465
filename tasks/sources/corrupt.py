"""Corrupt images: each is reported, and as many as ``data.max_corrupt`` are left out."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.console import say
from tasks.errors import UserError
from tasks.sources.base import Part
from tasks.sources.shard_work import CORRUPT_NAMED


class CorruptImages:
    """Counts them over all parts of a source."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.names: list[str] = []
        self.location = ""  # of the last one

    def add(self, part: Part, images: Sequence[tuple[str, str]]) -> None:
        """Report the corrupt ``images`` of ``part``, (name, reason). Raises ``UserError`` if that makes it hopeless."""
        for name, reason in images:
            self.names.append(name)
            self.location = part.location
            say(f"corrupt image {len(self.names)}: {name}: {reason}")
        if len(self.names) > self.limit + CORRUPT_NAMED:
            self.check()

    def check(self) -> None:
        """Raise ``UserError`` if there are more than the limit."""
        if len(self.names) > self.limit:
            named = "; ".join(self.names[:CORRUPT_NAMED]) + ("; ..." if len(self.names) > CORRUPT_NAMED else "")
            raise UserError(
                f"{self.location}: {len(self.names)} corrupt images, data.max_corrupt={self.limit}: {named}"
            )
