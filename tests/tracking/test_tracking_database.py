"""The SQLite database: whenever its maker is killed, the next one works."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tasks.tracking import database
from tasks.tracking.address import Unreachable
from tasks.tracking.mlflow_store import Store

MOMENTS = 5
MAKER = """
import os, sys, time
import mlflow.store.tracking.sqlalchemy_store
from tasks.tracking.mlflow_store import Store

def make(name):
    Store(f"sqlite:///{sys.argv[1]}/{name}.db")

began = time.monotonic()
make("whole")
taken = time.monotonic() - began
moments = int(sys.argv[2])
for moment in range(moments):
    child = os.fork()
    if not child:
        make(f"killed-{moment}")
        os._exit(0)
    time.sleep(taken * (moment + 0.5) / moments)
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


def tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as made:
        return {name for (name,) in made.execute("SELECT name FROM sqlite_master")}


def test_a_kill_while_the_database_is_made_leaves_none_and_the_next_maker_a_whole_one(tmp_path: Path) -> None:
    code = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", MAKER, str(tmp_path), str(MOMENTS)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": code}, check=True, timeout=300)
    whole = tables(tmp_path / "whole.db")
    interrupted = []
    for moment in range(MOMENTS):
        file = tmp_path / f"killed-{moment}.db"
        if file.exists():
            assert tables(file) == whole
        elif list(tmp_path.glob(f"{file.name}.making-*")):
            interrupted.append(file)
    assert len(interrupted) >= 2, "too few were killed while they made one"
    Store(f"sqlite:///{interrupted[-1]}")
    assert tables(interrupted[-1]) == whole
    assert not list(tmp_path.glob(f"{interrupted[-1].name}.making-*"))


def test_a_database_made_meanwhile_is_kept(tmp_path: Path) -> None:
    def migrate(uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("ours")
        (tmp_path / "mlflow.db").write_text("another program's")

    database.create(tmp_path / "mlflow.db", migrate)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("mlflow.db", "another program's")]


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////srv/mlflow.db?timeout=5", Path("/srv/mlflow.db")),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("http://host:5000", None),
        ("postgresql://host/mlflow", None),
    ],
)
def test_the_file_of_a_tracking_uri(uri: str, file: Path | None) -> None:
    assert database.file_of(uri) == file


def test_a_half_made_database_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as made:
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
        made.execute("INSERT INTO alembic_version VALUES ('0c779009ac13')")
        made.execute("CREATE TABLE runs (run_uuid TEXT)")
        made.commit()
    with pytest.raises(Unreachable) as error:
        Store(f"sqlite:///{file}")
    assert str(error.value) == (
        f"{file} is not complete: the program that made it was interrupted. It holds no runs: delete it"
    )
    with closing(sqlite3.connect(file)) as made:
        made.execute("INSERT INTO runs VALUES ('a')")
        made.commit()
    with pytest.raises(Unreachable) as error:
        Store(f"sqlite:///{file}")
    assert "delete" not in str(error.value)  # it may hold what is nowhere else


@pytest.mark.parametrize("other", [None, "another program's"])
def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str | None) -> None:
    file = tmp_path / "mlflow.db"

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def migrate(uri: str) -> None:
        Path(uri.removeprefix(database.SQLITE)).write_text("ours")
        if other:
            file.write_text(other)

    monkeypatch.setattr(os, "link", refuse)
    database.create(file, migrate)
    assert file.read_text() == (other or "ours")
    assert list(tmp_path.iterdir()) == [file]
