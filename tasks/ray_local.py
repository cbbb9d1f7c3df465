"""A small Ray of our own where ``RAY_ADDRESS`` names none: one for a whole flow, or else one for a stage.

It is started when the first training asks for it, and ends with the process that offers it and the trainings on it.
Offering and asking is done through a folder, which ``CONDENSENET_RAY`` names: a stage leaves ``wanted`` there and finds
``address``. Connections need the token in that folder, which only its owner can read.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Self

from condensenet.file_locks import try_lock, unlock
from condensenet.files import write_atomically
from condensenet.temporary import relative_path, temporary_folder
from condensenet.text import shown
from tasks import paths, telemetry
from tasks.errors import UserError
from tasks.private_files import write_private
from tasks.ray_head import kill_all
from tasks.server_addresses import free_port, listens

VARIABLE = "CONDENSENET_RAY"
NO_CLOUD = {  # for Ray's head, which asks three clouds if it runs there; others may get credentials at these addresses
    "http://169.254.169.254_proxy": telemetry.NOWHERE,  # as `requests` reads it: a proxy for that host alone
    "http://metadata.google.internal_proxy": telemetry.NOWHERE,
}
ENVIRONMENT = {  # read by Ray when it is imported and by the processes that it starts
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",  # else messages of several nodes are held back, and printed when Ray is left
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller starts and ends a training by polling
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a busy machine starts processes slowly
    **telemetry.OFF,
    "RAY_enable_worker_prestart": "0",  # workers of a training need an environment of their own
    "RAY_prestart_worker_first_driver": "0",
}
# Any address of the loopback but 127.0.0.1, which `ray start` replaces by one that other machines can reach.
RAY_HOST = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
OPTIONS = (
    *("--node-ip-address", RAY_HOST, "--include-dashboard=false", "--include-log-monitor=false", "--no-monitor"),
    *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0", "--disable-usage-stats"),
    f"--object-store-memory={100 << 20}",  # nothing large passes through Ray
)
PREFIX = "ray-"
START_LOCK = "ray-start.lock"
SESSION = "r"  # Ray's own folder, which it opens to everybody: the one above is closed to others
SOCKET = f"{SESSION}/session_2026-01-02_03-04-05_678901_1234567/sockets/plasma_store"  # of Ray; its longest
MAX_SOCKET = 107  # bytes in the path of a socket
WANTED, ADDRESS, FAILED, TOKEN, LOG = "wanted", "address", "failed", "token", "head.log"
ATTEMPTS = 3
START_S = 90.0
END_S = 40.0  # a training that is stopped saves first
POLL_S = 0.05


class LocalRay:
    """Offers a Ray of ``cpus`` processors, and this machine's GPUs if ``gpus``, while the block runs."""

    def __init__(self, cpus: int, *, gpus: bool) -> None:
        self._size = (f"--num-cpus={cpus}", *(() if gpus else ("--num-gpus=0",)))
        self._ended = threading.Event()
        self._head: subprocess.Popen[bytes] | None = None
        self._made = ExitStack()
        self._input, self.lifeline = os.pipe()  # Ray lives until nobody holds the lifeline
        self._thread = threading.Thread(target=self._offer, daemon=True)

    def __enter__(self) -> Self:
        self.folder = self._made.enter_context(new_folder())
        write_private(self.folder / TOKEN, secrets.token_hex(32))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        os.close(self.lifeline)
        self._thread.join()
        os.close(self._input)
        self._made.close()

    @property
    def variables(self) -> dict[str, str]:
        """What a process must have in its environment, before it imports Ray, to join."""
        return {VARIABLE: str(self.folder), **_token_variables(self.folder)}

    def _offer(self) -> None:
        while not self._ended.wait(POLL_S):
            if (self.folder / WANTED).exists():
                with suppress(OSError):  # no room or no process to be had now: they ask again
                    self._serve()

    def _serve(self) -> None:
        """Run Ray until it dies or nobody needs it any more; retry a start that failed on a busy machine.

        One start at a time in a checkout: Ray's processes must be up in half a minute.
        """
        paths.state().mkdir(parents=True, exist_ok=True)
        with (paths.state() / START_LOCK).open("a") as starting:
            while not try_lock(starting) and not self._ended.wait(POLL_S):
                pass
            address = next(filter(None, (self._start() for _ in range(ATTEMPTS) if not self._ended.is_set())), None)
            unlock(starting)
        (self.folder / WANTED).unlink(missing_ok=True)
        write_atomically(self.folder / (ADDRESS if address else FAILED), (address or self._why_not()).encode())
        while not self._ended.wait(POLL_S) and address and self._head and self._head.poll() is None:
            pass
        (self.folder / ADDRESS).unlink(missing_ok=True)
        if address:
            self._end()

    def _start(self) -> str | None:
        """The address once Ray answers there; None if its process ended before."""
        port = free_port(RAY_HOST)
        command = [sys.executable, "-m", "tasks.ray_head", f"--port={port}", f"--temp-dir={self.folder / SESSION}"]
        with (self.folder / LOG).open("ab") as log:
            self._head = subprocess.Popen(
                [*command, *OPTIONS, *self._size],
                stdin=self._input,
                stdout=log,
                stderr=log,
                env={**os.environ, **ENVIRONMENT, **NO_CLOUD, **_token_variables(self.folder)},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while self._head.poll() is None and time.monotonic() < deadline and not self._ended.wait(POLL_S):
            if any(self.folder.glob(f"{SESSION}/session_2*/sockets/raylet")) and listens(RAY_HOST, port):
                return f"{RAY_HOST}:{port}"
        self._end()
        return None

    def _why_not(self) -> str:
        lines = [line for line in (self.folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
        return f"Ray did not start in {ATTEMPTS} attempts: {lines[-1].strip() if lines else 'it said nothing'}"

    def _end(self) -> None:
        """Wait for the end of Ray if its input is closed, else kill it."""
        import psutil

        assert self._head is not None
        with suppress(subprocess.TimeoutExpired):
            self._head.wait(END_S if self._ended.is_set() else 0)
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._head.pid)
            kill_all([*process.children(recursive=True), process])
        self._head.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._head.pid, signal.SIGKILL)  # what a killed one has left would wait for it for a minute


def ask(folder: Path) -> None:
    """Ask for the Ray that is offered in ``folder``; what is to be done meanwhile can be done before ``join``."""
    with suppress(OSError):
        (folder / FAILED).unlink(missing_ok=True)  # another's: now it may start
        (folder / WANTED).touch()


def join(folder: Path) -> str:
    """The address of the Ray that is offered in ``folder``; waits for its start, and for another's in place of one that
    has just died. Raises ``UserError``.
    """
    deadline = time.monotonic() + ATTEMPTS * START_S
    while time.monotonic() < deadline and folder.exists() and not (folder / FAILED).exists():
        with suppress(OSError):
            address = (folder / ADDRESS).read_text(errors="replace")
            if _answers(address, folder):
                return address
        with suppress(OSError):
            (folder / WANTED).touch()
        time.sleep(POLL_S)
    with suppress(OSError):
        raise UserError((folder / FAILED).read_text())
    raise UserError(f"no Ray is offered in {folder}, which {VARIABLE} names")


def _answers(address: str, folder: Path) -> bool:
    host, _, port = address.rpartition(":")
    try:
        return listens(host, int(port))
    except ValueError:  # also for a host that cannot be looked up
        raise UserError(
            f"{folder / ADDRESS} holds {shown(address)}, no HOST:PORT; {VARIABLE} names its folder"
        ) from None


def new_folder() -> AbstractContextManager[Path]:
    return temporary_folder(PREFIX, parent_of(relative_path(PREFIX)))


def parent_of(path: Path | str) -> Path:
    """Where temporary files go; /tmp if paths there are too long for Ray's sockets in ``path``, which is relative."""
    usual = Path(tempfile.gettempdir())
    return usual if len(os.fsencode(usual / path / SOCKET)) <= MAX_SOCKET else Path("/tmp")


def _token_variables(folder: Path) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN)}
