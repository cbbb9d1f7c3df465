"""The process that keeps the services of a local cluster running until it gets SIGTERM.

    python -m cluster.supervisor      # cluster/local.py starts it

A service that ends is started again, after a pause that grows. Each has a file ``<name>.pid`` and a log. If this
process itself is killed, its services go on; ``end_leftovers`` finds them by these files.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cluster.services import Service, services
from cluster.settings import Cluster
from condensenet.file_locks import try_lock
from condensenet.files import write_atomically
from tasks.errors import UserError, run_main
from tasks.ray_head import kill_all

READY_S = 180.0
END_S = 25.0  # a training that is stopped saves first
PAUSES_S = (1.0, 2.0, 5.0, 15.0, 60.0)
WELL_S = 120.0  # who ran that long starts again at once
POLL_S = 0.2
ASKED_S = 2.0
LOCK, STATUS = "supervisor.lock", "status.json"


class Supervised:
    """One service and its process."""

    def __init__(self, service: Service, cluster: Cluster) -> None:
        self.service, self._cluster = service, cluster
        self.process: subprocess.Popen[bytes] | None = None
        self.ready, self.failures, self.started_at = False, 0, 0.0

    @property
    def pid_file(self) -> Path:
        return self._cluster.folder / f"{self.service.name}.pid"

    @property
    def log(self) -> Path:
        return self._cluster.folder / "logs" / f"{self.service.name}.log"

    def start(self, stop: threading.Event) -> None:
        """Start it and wait until it is ready; raises ``UserError`` if it ends or does not become ready."""
        self.ready, self.started_at = False, time.monotonic()
        self.service.prepare()
        self.process = self.service.start(self.log, Path("/") if self.service.account else self._cluster.checkout)
        self.pid_file.write_text(json.dumps([self.process.pid, psutil.Process(self.process.pid).create_time()]))
        while not self.service.ready():
            if self.process.poll() is not None:
                raise UserError(f"{self.service.name} ended with status {self.process.returncode}: see {self.log}")
            if time.monotonic() - self.started_at > READY_S:
                raise UserError(f"{self.service.name} is not ready after {READY_S:.0f} s: see {self.log}")
            if stop.wait(POLL_S):
                return
        self.service.after()
        self.ready = True

    def start_again(self, stop: threading.Event) -> None:
        """Start it after a pause, unless told to stop; a failure is noted in its log."""
        self.failures = 0 if time.monotonic() - self.started_at > WELL_S else self.failures + 1
        if stop.wait(PAUSES_S[min(self.failures, len(PAUSES_S) - 1)]):
            return
        self.end()
        try:
            self.start(stop)
        except UserError as error:
            self.end()  # what is not ready in time is started again
            with self.log.open("a") as log:
                log.write(f"supervisor: {error}\n")

    def end(self) -> None:
        if self.process is not None:
            end_group(self.process.pid)
            self.process.wait()
        self.ready = False
        self.pid_file.unlink(missing_ok=True)


def main() -> None:
    argparse.ArgumentParser(prog="python -m cluster.supervisor", description=__doc__.splitlines()[0]).parse_args()
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    cluster = Cluster.settled()
    with alone(cluster.folder):
        end_leftovers(cluster)
        supervise([Supervised(service, cluster) for service in services(cluster)], cluster.folder / STATUS, stop)


def supervise(all_services: list[Supervised], status: Path, stop: threading.Event) -> None:
    """Start them in order, then keep them running. A failure of the first start ends all: somebody waits for it."""
    error = None
    try:
        for each in all_services:
            if not stop.is_set():
                each.start(stop)
                write_status(status, all_services)
        while not stop.wait(POLL_S):
            for each in all_services:
                if each.process is None or each.process.poll() is not None:
                    each.ready = False
                    write_status(status, all_services)
                    each.start_again(stop)
                    write_status(status, all_services)
    except UserError as failure:
        error = str(failure)
    finally:
        for each in reversed(all_services):
            each.end()
        write_status(status, all_services, error)


def write_status(path: Path, all_services: list[Supervised], error: str | None = None) -> None:
    status = {"ready": {each.service.name: each.ready for each in all_services}, "error": error}
    write_atomically(path, json.dumps(status).encode())


def end_group(pid: int) -> None:
    """End a process with its group and all its children, gently at first: SIGINT is PostgreSQL's fast shutdown."""
    family = []
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        family = [*leader.children(recursive=True), leader]
        leader.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=END_S)
    kill_all(alive)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_leftovers(cluster: Cluster) -> None:
    """End services whose supervisor was killed; a process that only has the number of one is left alone."""
    for path in cluster.folder.glob("*.pid"):
        with suppress(psutil.NoSuchProcess, ValueError):
            pid, created = json.loads(path.read_text())
            if psutil.Process(pid).create_time() == created:
                end_group(pid)
        path.unlink(missing_ok=True)


def running(folder: Path) -> int | None:
    """The number of the supervisor's process, if one is at work in ``folder``."""
    with suppress(FileNotFoundError), (folder / LOCK).open("r+") as file:
        return None if try_lock(file, shared=True) else int(file.read() or 0)  # shared: others may ask meanwhile
    return None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock by which others know of this process; raises ``UserError`` if another supervisor does."""
    with (folder / LOCK).open("a+") as file:
        deadline = time.monotonic() + ASKED_S
        while not try_lock(file):  # perhaps somebody is just asking
            if time.monotonic() > deadline:
                raise UserError(f"another supervisor is at work in {folder}")
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


if __name__ == "__main__":
    run_main(main)
