"""A Prefect server for one flow, when none is given (``PREFECT_API_URL``).

Prefect would start one of its own accord. This one differs: it is on a leash and so never outlives the flow; Ctrl-C
and signals to the whole process group reach the flow alone, which then still has a server to tell of its end; and of
several flows one at a time makes the database (two that migrate a new one fail).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from condensenet.locks import lock, unlock
from tasks.console import say
from tasks.errors import UserError

START_S = 120.0
DRAIN_S = 10.0
LEASH = (sys.executable, "-m", "flows.leash")


@contextmanager
def server_for_this_flow() -> Iterator[None]:
    """Prefect has a server inside the block; raises ``UserError`` if it does not start."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    say("starting a Prefect server for this run")
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    with (home / "server.lock").open("w") as starting, (home / "server.log").open("a") as log:
        lock(starting)
        process = _start(port, log.fileno())
        assert process.stdin is not None
        try:
            _await(process, f"http://127.0.0.1:{port}/api/health", home / "server.log")
            unlock(starting)
            with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
                try:
                    yield
                finally:
                    _drain()
        finally:
            process.stdin.close()  # the leash ends the server
            process.wait()


def _start(port: int, log: int) -> subprocess.Popen[bytes]:
    """As Prefect's own temporary server: without UI and without what only a lasting server needs."""
    import prefect

    serve = ("-m", "uvicorn", "--app-dir", str(Path(prefect.__file__).parents[1]), "--factory")
    where = ("prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port))
    return subprocess.Popen(
        [*LEASH, sys.executable, *serve, *where, "--log-level", "error", "--lifespan", "on"],
        env={**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _await(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise UserError(f"Prefect's server does not start: see {log}")


def _drain() -> None:
    """What the flow's logs and events still hold reaches the server before it ends."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=DRAIN_S)
    EventsWorker.drain_all(timeout=DRAIN_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
