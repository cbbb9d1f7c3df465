"""A fresh SQLite database for MLflow, there in full or not at all: MLflow's migrations do not survive a kill."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from condensenet import file_locks
from tasks.tracking.address import SQLITE


def file_of(uri: str) -> Path | None:
    """The database file of a SQLite address; None for other stores and for a database in memory."""
    name = uri.partition("?")[0].removeprefix(SQLITE)
    return Path(name) if uri.startswith(SQLITE) and name not in ("", ":memory:") else None


def create(file: Path, migrate: Callable[[str], object]) -> None:
    """Have ``migrate(uri)`` make the database under a temporary name, then give it its own, unless it is there."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        file_locks.lock(folder)  # one maker at a time
        prefix = f"{file.name}.making-"
        for left in file.parent.glob(f"{prefix}*"):  # by a maker that was killed
            left.unlink()
        draft = file.with_name(f"{prefix}{uuid.uuid4().hex}")
        if not file.exists():
            migrate(f"{SQLITE}{draft}")
            _put_in_place(draft, file)
    finally:
        os.close(folder)


def _put_in_place(draft: Path, file: Path) -> None:
    """Unless another program has made ``file`` meanwhile."""
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links: as good as it can be done there
        if not file.exists():
            draft.rename(file)
    draft.unlink(missing_ok=True)


def advice(uri: str, reason: str) -> str:
    """``reason``, why the database cannot be used; or, if its maker was interrupted, what to do about it."""
    file = file_of(uri)
    if file is None or not file.exists() or not _is_unused(file):
        return reason
    return f"{file} is not complete: the program that made it was interrupted. It holds no runs: delete it"


def _is_unused(file: Path) -> bool:
    """Whether it is a database without a run."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return "runs" not in tables or not database.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.Error:  # it is locked, or no database
        return False
