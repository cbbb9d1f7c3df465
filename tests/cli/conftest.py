"""Fixtures of the command's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from photographs import write_photos

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
