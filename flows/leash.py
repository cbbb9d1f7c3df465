"""Run a command, and end it with all that it started when the holder of our standard input lets go or dies.

    python -m flows.leash COMMAND...

The command is interrupted as by Ctrl-C, so that it can put its things in order, then terminated, then killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

# In this order. A training saves before it ends; in all it is less than the 30 s that who stops us may have.
GRACE_S = {signal.SIGINT: 20.0, signal.SIGTERM: 4.0, signal.SIGKILL: 2.0}


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell runs in the background
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0)
    let_go = threading.Event()
    ender = threading.Thread(target=_end_when_let_go, args=(child.pid, let_go), daemon=True)
    ender.start()
    code = child.wait()
    if let_go.is_set():
        ender.join()  # the command is gone, what it started may not be
    return code if code >= 0 else 128 - code


def _end_when_let_go(group: int, let_go: threading.Event) -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns at the end of the file
    let_go.set()
    for sign, grace in GRACE_S.items():
        deadline = time.monotonic() + grace
        _signal(group, sign)
        while _signal(group, 0):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        else:
            return


def _signal(group: int, sign: int) -> bool:
    """Whether a process of the group was there to get the signal (0: none is sent)."""
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
