"""Models and images as the command line names them: what is not there is refused before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from condensenet.models.presets import HUB_PREFIX, presets
from tasks.errors import UserError


def is_preset(name: str) -> bool:
    return name in presets and not Path(name).exists()


def presets_beginning(incomplete: str) -> list[str]:
    return [name for name in presets if name.startswith(incomplete)]


def model_file(name: str) -> str:
    """``name`` of a file, a folder or a network of the Hub; raises ``UserError`` if there is no such file or folder.

    A preset's name passes: who loads it says that no weights are published.
    """
    if not _may_be(name):
        raise UserError(f"{name} does not exist: a file, a folder or {HUB_PREFIX}OWNER/NAME is needed")
    return name


def network_or_file(name: str) -> str:
    """``name`` of a preset or of what ``model_file`` takes; raises ``UserError`` if it is neither."""
    if not _may_be(name):
        raise UserError(f"{name} is neither a file nor a network: {', '.join(presets)}")
    return name


def networks_or_files(names: Iterable[str]) -> list[str]:
    return [network_or_file(name) for name in names]


def _may_be(name: str) -> bool:
    return Path(name).exists() or name in presets or name.startswith(HUB_PREFIX)


def image_files(paths: Iterable[Path]) -> list[Path]:
    """``paths``; raises ``UserError`` for one that is no file."""
    for path in paths:
        if not path.is_file():
            why = "is a folder: name the files in it" if path.is_dir() else "does not exist"
            raise UserError(f"{path} {why}")
    return [*paths]
