from __future__ import annotations

from trainings import uninterrupted  # noqa: F401
