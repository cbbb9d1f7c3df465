"""The process of a local Ray: ``ray start --head``, which ends with all its processes when standard input is closed.

    python -m tasks.ray_head --port PORT --temp-dir FOLDER ...

Those who use it keep the other end of the pipe, so a kill of any leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.ray_head", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    _, passed_on = parser.parse_known_args()
    threading.Thread(target=_end_at_eof, daemon=True).start()
    (ray,) = entry_points(group="console_scripts", name="ray")
    command = ray.load()
    sys.argv = ["ray", "start", "--head", "--block", *passed_on]
    command()  # in this process and thread: Ray's processes end when the thread that started them does


def kill_descendants() -> None:
    """Kill the processes that this one has started, and theirs, whatever they are doing."""
    import psutil

    kill_all(psutil.Process().children(recursive=True))


def kill_all(processes: Sequence[Any]) -> None:
    """Kill processes of ``psutil`` and wait for their end."""
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def _end_at_eof() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns at the end of the file
    kill_descendants()
    os._exit(0)


if __name__ == "__main__":
    main()
