"""Measurements side by side, each one command: ``python benchmarks/NAME.py`` (``--quick`` for under 50 seconds)."""
