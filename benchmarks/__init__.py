"""Measurements side by side, each one command: ``python benchmarks/NAME.py`` (``--quick`` for under 50 seconds)."""

import time

STARTED = time.monotonic()  # of the script, before it imports anything that takes long
