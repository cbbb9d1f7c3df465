"""Records on their way to the tracking store: written to disk first, sent in order, removed once they have arrived.

``state/outbox/<execution id>/<n>/`` holds one record: ``record.json`` and, under ``files/``, a copy of every artifact
(a copy, so that a stage that runs again cannot change what an earlier run will be said to have made). A folder
without a leading dot is complete. Nothing here imports MLflow.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from condensenet.locks import try_lock
from tasks import paths

RECORD = "record.json"
FILES = "files"
REFUSED = ".refused"
NOTE = ".run"
DUTY = ".courier"


def root() -> Path:
    return paths.state() / "outbox"


def put(execution_id: str, record: Mapping[str, Any], files: Sequence[tuple[Path, str]] = ()) -> Path:
    """Store ``record`` behind those of the same execution that wait already; returns its folder.

    ``files`` are pairs of a file or folder and the name (a relative path) under which its copy is kept.
    """
    queue = root() / execution_id
    draft = queue / f".draft-{uuid.uuid4().hex}"
    (draft / FILES).mkdir(parents=True)
    for source, name in files:
        _copy(source, draft / FILES / name)
    with open(draft / RECORD, "w") as file:
        json.dump(dict(record), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    while True:
        last = max((int(folder.name) for folder in _complete(queue)), default=0)
        try:
            return draft.rename(queue / f"{last + 1:06d}")  # fails if another process took the number
        except OSError:
            if not draft.exists():
                raise


def pending() -> list[Path]:
    """Folders of the records that wait, each execution's in the order they were written."""
    return [record for queue in _queues() for record in _complete(queue)]


def read(folder: Path) -> dict[str, Any]:
    """The content of a record; raises ``ValueError`` or ``OSError`` if it cannot be read."""
    record = json.loads((folder / RECORD).read_text())
    if not isinstance(record, dict):
        raise ValueError(f"{folder / RECORD} does not hold a mapping")
    return record


def remove(folder: Path) -> None:
    """Take a delivered record away in one step, so that a kill leaves either all of it or none."""
    gone = folder.with_name(f".done-{uuid.uuid4().hex}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Keep a record that the store will never take out of the way of the others; returns where it is."""
    aside = root() / REFUSED / folder.parent.name / f"{folder.name}-{uuid.uuid4().hex[:8]}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(aside)


def note_run(execution_id: str, run_id: str) -> None:
    """Remember the MLflow run of an execution, for the process that waits to learn it."""
    note = root() / execution_id / NOTE
    if not note.exists():
        draft = note.with_name(f".draft-{uuid.uuid4().hex}")
        draft.write_text(run_id)
        draft.rename(note)


def noted_run(execution_id: str) -> str | None:
    """What ``note_run`` remembered."""
    try:
        return (root() / execution_id / NOTE).read_text()
    except FileNotFoundError:
        return None


def tidy(older_than_s: float = 86400.0) -> None:
    """Take away what killed writers left behind and the folders of executions with nothing to deliver."""
    for queue in _queues():
        if _age_s(queue) > older_than_s:  # nothing came or went in there since
            for item in queue.iterdir():
                if item.name.startswith("."):
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
            with suppress(OSError):  # not empty
                queue.rmdir()


def _age_s(item: Path) -> float:
    return time.time() - item.stat().st_mtime


@contextmanager
def on_duty(ended: threading.Event) -> Iterator[bool]:
    """Be the one process that others leave their records to; waits while another one is, until ``ended``: False."""
    root().mkdir(parents=True, exist_ok=True)
    with open(root() / DUTY, "w") as file:
        while not (mine := try_lock(file)) and not ended.wait(0.2):
            pass
        yield mine


def attended() -> bool:
    """Whether a process is on duty, so that a record that was put before this call will be delivered by it."""
    try:
        with open(root() / DUTY) as file:
            return not try_lock(file, shared=True)
    except FileNotFoundError:
        return False


@contextmanager
def locked(wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the right to deliver; yields False if another process still holds it after ``wait_s`` seconds."""
    root().mkdir(parents=True, exist_ok=True)
    with open(root() / ".lock", "w") as file:
        deadline = time.monotonic() + wait_s
        while not (held := try_lock(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield held


def _queues() -> list[Path]:
    if not root().is_dir():
        return []
    return sorted(folder for folder in root().iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _complete(queue: Path) -> list[Path]:
    try:
        return sorted(folder for folder in queue.iterdir() if folder.name.isdigit())
    except FileNotFoundError:
        return []


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
