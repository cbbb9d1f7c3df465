"""Run a command, and end it with its whole process group when our standard input is closed, or its writer dies.

    python -m flows.supervise COMMAND...

The group gets SIGINT first, so that it can save its work, then SIGTERM, then SIGKILL. The same happens to what a
command that was killed has left.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time

# In this order. A training saves before it ends; the total stays below the 30 s that a Prefect worker waits.
GRACE_S = {signal.SIGINT: 20.0, signal.SIGTERM: 4.0, signal.SIGKILL: 2.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.supervise", description=__doc__.splitlines()[0])
    parser.add_argument("program", metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    child = subprocess.Popen([options.program, *options.arguments], stdin=subprocess.DEVNULL, process_group=0)
    input_closed = threading.Event()
    terminator = threading.Thread(target=_terminate_at_eof, args=(child.pid, input_closed), daemon=True)
    terminator.start()
    code = child.wait()
    if input_closed.is_set():
        terminator.join()  # the command has ended, its children may not have
    elif code < 0:
        _terminate(child.pid)
    return code if code >= 0 else 128 - code


def _terminate_at_eof(group: int, input_closed: threading.Event) -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns at the end of the file
    input_closed.set()
    _terminate(group)


def _terminate(group: int) -> None:
    for sign, grace_s in GRACE_S.items():
        deadline = time.monotonic() + grace_s
        _signal(group, sign)
        while _signal(group, 0):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        else:
            return


def _signal(group: int, sign: int) -> bool:
    """Send the signal (0 sends none); False if the group has no process left."""
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
