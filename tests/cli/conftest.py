"""Fixtures of the command's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from photographs import write_photos
from tutorial import Tutorial, run_tutorial

from cli.app import app

Command = Callable[..., None]


@pytest.fixture
def command() -> Command:
    """``condensenet ARGUMENT...`` in this process; errors come as they are raised, before they are printed."""

    def run(*arguments: object) -> None:
        status = app([str(each) for each in arguments], standalone_mode=False)
        if status not in (None, 0):
            raise typer.Exit(status)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Tutorial:
    """The folder in which the commands of docs/TUTORIAL.md have run, and what they printed."""
    folder = tmp_path_factory.mktemp("stranger")
    write_photos(folder / "photos")
    (folder / "more").mkdir()
    for name in ("blue", "red"):
        (folder / "more" / name).symlink_to(folder / "photos" / name)
    (folder / "docs").symlink_to(checkout / "docs")
    return run_tutorial(checkout, folder)
