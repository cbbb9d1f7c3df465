"""Fixtures of the command's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

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
    """Three folders of eight pictures, told apart by their colour, of several sizes and formats."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for label, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir(parents=True)
        for number in range(8):
            height, width = 20 + number, 24 + 2 * number
            pixels = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
            pixels[..., 2 - label] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.{('jpg', 'png')[number % 2]}")
    return root
