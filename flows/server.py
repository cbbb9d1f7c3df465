"""A Prefect server for the command, when none is given (``PREFECT_API_URL``).

Prefect would start one of its own accord, but several flows could not create the database together, a command killed
by -9 would leave it behind, and Ctrl-C would end it before the flow could report its end. This one is supervised, in a
session of its own, and ends after everything else in this process.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from condensenet.file_locks import lock, unlock
from tasks.console import say
from tasks.errors import UserError
from tasks.server_addresses import free_port

START_S = 120.0
HOST = "127.0.0.1"
SUPERVISED = (sys.executable, "-m", "flows.supervise")
SERVE = ("prefect", "server", "start", "--no-ui", "--host", HOST, "--log-level", "error")


def ensure_server() -> None:
    """Give Prefect a server for the rest of this process; raises ``UserError`` if it does not start."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if not settings.api.url:
        say("starting a Prefect server for this run")
        os.environ["PREFECT_API_URL"] = _start(settings.home)
        refresh_global_settings_context()  # for all threads, which a context manager's settings would not reach


def _start(home: Path) -> str:
    """The address of a server that ends with this process. The lock lets one process at a time create the database."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port(HOST)
    with (home / "server.lock").open("w") as starting, (home / "server.log").open("a") as log:
        lock(starting)
        process = subprocess.Popen(
            [*SUPERVISED, sys.executable, "-m", *SERVE, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        atexit.register(_end, process)  # Prefect sends its last logs and events before
        _await(process, f"http://{HOST}:{port}/api/health", home / "server.log")
        unlock(starting)
    return f"http://{HOST}:{port}/api"


def _await(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise UserError(f"Prefect's server does not start: see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(KeyboardInterrupt):  # a second Ctrl-C: the supervisor ends it all the same
        process.communicate()  # closes its input
