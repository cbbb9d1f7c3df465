"""Locks between the processes of one checkout: a quiet machine for latencies, folders with one owner.

Stages that compute (prepare, yardstick, train, convert, export, evaluate, report) run under ``shared_machine()``; the
benchmark runs under ``quiet_machine()`` and waits for them, and so does export where it measures. Other programs on
the machine are not noticed.

A waiting benchmark does not keep other stages from starting, which would hold up the training of every other setting.
Its turn comes at the latest when all other stages are done.

Other locks: ``state/locks/params.lock`` and ``state/locks/<stage>.lock`` (flows), ``state/ray-start.lock``
(``ray_local``), a training's folder and the ``lock`` in it (``train``, ``train_worker``; in an object store leases,
``tasks/lease.py``), in a node's cache of images (``node_data``) ``<fingerprint>.lock`` of all who use them,
``<fingerprint>.download`` of the one of these who downloads them and ``making-room``, the folder of prepared images in
the making (``condensenet.data.writing``) and ``large-image.lock`` in it (``sources/examine.py``),
``state/tracking/.lock`` and ``.drafting``, and the folder of a database in the making (``tracking``), ``.in-use`` in
the workspace of ``condensenet train`` (``cli/training.py``), ``server.lock`` in Prefect's home (``flows/server.py``),
``up.lock`` and ``supervisor.lock`` in the folder of a local cluster (``cluster/local.py``, ``cluster/supervisor.py``),
and temporary files and folders while their process lives (``condensenet/temporary.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from condensenet.file_locks import Open, is_at, lock, try_lock, unlock
from tasks import paths
from tasks.console import say
from tasks.errors import UserError

MACHINE = "machine.lock"


@contextmanager
def shared_machine() -> Iterator[None]:
    """Hold the machine together with other stages; waits while a benchmark runs."""
    with _machine(shared=True, waiting="waiting for a benchmark to end: the machine is kept quiet for it"):
        yield


@contextmanager
def quiet_machine() -> Iterator[None]:
    """Hold the machine alone; waits until no stage holds it."""
    with _machine(shared=False, waiting="waiting for other stages to end: a latency needs a quiet machine"):
        yield


@contextmanager
def _machine(*, shared: bool, waiting: str) -> Iterator[None]:
    folder = paths.state()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / MACHINE).open("a+") as file:
        _lock_and_tell(file, shared=shared, waiting=waiting)
        try:
            yield
        finally:
            unlock(file)  # a forked child may hold the file open


@contextmanager
def owned(folder: Path, busy: str | None = None) -> Iterator[None]:
    """Make ``folder`` and hold it alone. The owner may remove it.

    Waits for another process that holds it, or with ``busy`` raises ``UserError`` with that message.
    """
    while True:
        descriptor = _made(folder)
        try:
            if busy is not None and not try_lock(descriptor):
                raise UserError(busy)
            _lock_and_tell(descriptor, shared=False, waiting=f"waiting for another process that works in {folder}")
            if is_at(folder, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _made(folder: Path) -> int:
    """A descriptor of ``folder``, which its owner may remove at any moment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with suppress(FileExistsError):  # not exist_ok: it looks again, and may find nothing
            folder.mkdir()
        with suppress(FileNotFoundError):
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def lock_file(name: str) -> Path:
    """The file ``state/locks/<name>`` to open and lock."""
    path = paths.state() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _lock_and_tell(file: int | Open, *, shared: bool, waiting: str) -> None:
    if not try_lock(file, shared=shared):
        say(waiting)
        lock(file, shared=shared)
