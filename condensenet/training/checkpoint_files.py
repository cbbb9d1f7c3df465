"""Checkpoint files: written atomically and verified when they are read. ``checkpoint`` says what they hold.

A folder holds the last two, ``checkpoint-<step>-<checksum>.pt``, where the checksum is the start of the file's sha256.
They hold tensors and plain data, never code, so ``torch.load(path, weights_only=True)`` reads them.
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
from condensenet.models.storage import parse_plain

KEPT = 2  # if the newest one is damaged, training falls back to the one before
CHECKSUM_LENGTH = 16
NAME = re.compile(rf"checkpoint-(\d+)-([0-9a-f]{{{CHECKSUM_LENGTH}}})\.pt")

log = logging.getLogger(__name__)


def save(folder: Path, step: int, content: dict[str, Any]) -> Path:
    """Write the checkpoint of ``step`` and remove all but the last two. ``OSError`` (disk full) leaves the old ones."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    path = folder / f"checkpoint-{step:08d}-{_checksum(data)}.pt"
    write_atomically(path, data)
    for old in _newest_first(folder)[KEPT:]:
        _try_to_remove(old)
    for partial in folder.glob(".checkpoint-*.tmp"):  # left by a killed process: a folder has only one writer
        _try_to_remove(partial)
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest intact checkpoint, or None. Damaged ones are skipped, each with a warning."""
    paths = _newest_first(folder)
    for path in paths:
        try:
            return _load(path)
        except (OSError, ValueError) as error:
            fallback = "there is no other, so training starts over" if path == paths[-1] else "using the one before"
            log.warning("checkpoint %s is damaged (%s): %s", path.name, _first_line(error), fallback)
            with suppress(OSError):
                path.replace(path.with_suffix(f".{uuid.uuid4().hex[:8]}.damaged"))  # so that it does not count as kept
    return None


def _try_to_remove(path: Path) -> None:
    with suppress(OSError):  # a leftover file is no reason to stop training
        path.unlink()


def _load(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    match = NAME.fullmatch(path.name)
    if match is None or _checksum(data) != match[2]:
        raise ValueError("its checksum differs")
    content = parse_plain(data, path.name)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _newest_first(folder: Path) -> list[Path]:
    steps = {path: int(match[1]) for path in folder.glob("checkpoint-*.pt") if (match := NAME.fullmatch(path.name))}
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:CHECKSUM_LENGTH]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
