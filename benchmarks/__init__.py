"""Side-by-side measurements, one command each: ``python -m benchmarks.NAME`` (``--quick`` for under 50 seconds).

This package is imported before PyTorch, because OpenMP reads the variable below when it is loaded. It limits
how long a waiting thread spins before it sleeps. Without a limit, other work on the machine can make a step ten times
as slow.
"""

import os
import time

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
STARTED = time.monotonic()  # when the script started, before slow imports
