"""Checkpoints of a training in progress: whole or not there, and checked when they are read.

A folder holds the last two, ``checkpoint-<step>-<checksum>.pt``, where the checksum is the start of the file's
sha256. ``torch.load(path, weights_only=True)`` reads one: tensors and plain data, never code.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from condensenet.files import write_atomically
from condensenet.models.storage import plain

KEPT = 2  # a damaged newest one falls back to the one before
CHECKSUM_DIGITS = 16
NAME = re.compile(rf"checkpoint-(\d+)-([0-9a-f]{{{CHECKSUM_DIGITS}}})\.pt")

log = logging.getLogger(__name__)


def save(folder: Path, step: int, content: dict[str, Any]) -> Path:
    """Write the checkpoint of ``step`` and remove all but the last two. ``OSError`` (disk full) leaves the old ones."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    path = folder / f"checkpoint-{step:08d}-{_checksum(data)}.pt"
    write_atomically(path, data)
    for old in _newest_first(folder)[KEPT:]:
        _remove(old)
    for partial in folder.glob(".checkpoint-*.tmp"):  # of a process that was killed: only one writes in a folder
        _remove(partial)
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None. Each damaged one is named in a warning and passed over."""
    found = _newest_first(folder)
    for path in found:
        try:
            return _load(path)
        except (OSError, ValueError) as error:
            instead = "there is no other, so training begins again" if path == found[-1] else "taking the one before"
            log.warning("checkpoint %s is damaged (%s): %s", path.name, _one_line(error), instead)
            with suppress(OSError):
                path.replace(path.with_suffix(f".{uuid.uuid4().hex[:8]}.damaged"))  # not one of those that are kept
    return None


def _remove(path: Path) -> None:
    with suppress(OSError):  # what is in the way of nobody is no reason to stop
        path.unlink()


def _load(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    match = NAME.fullmatch(path.name)
    if match is None or _checksum(data) != match[2]:
        raise ValueError("its checksum differs")
    content = plain(data, path.name)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*.pt") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(NAME.fullmatch(path.name)[1]), reverse=True)  # type: ignore[index]


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:CHECKSUM_DIGITS]


def _one_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
