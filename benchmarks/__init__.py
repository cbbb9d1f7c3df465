"""Measurements side by side, each one command: ``python benchmarks/NAME.py`` (``--quick`` for under 50 seconds).

Every script imports this package before PyTorch. OpenMP reads here how long a thread spins while it waits for another
before it sleeps: without a limit, other work on the machine makes single steps take ten times as long.
"""

import os
import time

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
STARTED = time.monotonic()  # of the script, before it imports anything that takes long
