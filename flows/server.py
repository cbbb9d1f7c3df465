"""Prefect's temporary server for flows that no server is given to (``PREFECT_API_URL`` unset)."""

from __future__ import annotations

import fcntl
import signal

from tasks.console import say
from tasks.errors import UserError


def start_if_none_is_given() -> None:
    """Start it before the flow asks for it, as Prefect would, save that

    - one process at a time does so: two that migrate one new database fail;
    - Ctrl-C reaches the flow alone, which then still has a server to tell of its end. (It ends with this process.)
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if PREFECT_API_URL.value():
        return
    say("starting a Prefect server for this run")
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the server inherits it
        try:
            SubprocessASGIServer().start()
        except Exception as error:
            raise UserError(f"Prefect's temporary server does not start: {' '.join(str(error).split())}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
