"""Checkpoint files: written atomically and verified when they are read. ``checkpoint`` says what they hold.

A folder, or another storage, holds the last two, ``checkpoint-<step>-<checksum>.pt``, where the checksum is the start
of the file's sha256. They hold tensors and plain data, never code, so ``torch.load(path, weights_only=True)`` reads
them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from condensenet.files import Storage, as_storage
from condensenet.models.storage import parse_plain

KEPT = 2  # if the newest one is damaged, training falls back to the one before
CHECKSUM_LENGTH = 16
NAME = re.compile(rf"checkpoint-(\d+)-([0-9a-f]{{{CHECKSUM_LENGTH}}})\.pt")
PARTIAL = re.compile(r"\.checkpoint-.*\.tmp")

log = logging.getLogger(__name__)


def save(place: Path | Storage, step: int, content: dict[str, Any]) -> str:
    """Write the checkpoint of ``step`` and remove all but the last two; returns its name.

    ``OSError`` (disk full) leaves the old ones.
    """
    storage, buffer = as_storage(place), io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    name = f"checkpoint-{step:08d}-{_checksum(data)}.pt"
    storage.write(name, data)
    names = storage.names()
    for old in _newest_first(names)[KEPT:]:
        _try_to_remove(storage, old)
    for partial in filter(PARTIAL.fullmatch, names):  # left by a killed process: a storage has only one writer
        _try_to_remove(storage, partial)
    return name


def load_newest(place: Path | Storage) -> dict[str, Any] | None:
    """The newest intact checkpoint, or None. Damaged ones are skipped, each with a warning.

    Raises ``ConnectionError`` if the storage cannot be reached, ``PermissionError`` if it may not be read.
    """
    storage = as_storage(place)
    names = _newest_first(storage.names())
    for name in names:
        try:
            return _load(storage, name)
        except (ConnectionError, PermissionError):  # it may be intact
            raise
        except (OSError, ValueError) as error:
            fallback = "there is no other, so training starts over" if name == names[-1] else "using the one before"
            log.warning("checkpoint %s is damaged (%s): %s", name, _first_line(error), fallback)
            with suppress(OSError):  # so that it does not count as kept
                storage.rename(name, f"{name.removesuffix('.pt')}.{uuid.uuid4().hex[:8]}.damaged")
    return None


def _try_to_remove(storage: Storage, name: str) -> None:
    with suppress(OSError):  # a leftover file is no reason to stop training
        storage.delete(name)


def _load(storage: Storage, name: str) -> dict[str, Any]:
    data = storage.read(name)
    match = NAME.fullmatch(name)
    if match is None or _checksum(data) != match[2]:
        raise ValueError("its checksum differs")
    content = parse_plain(data, name)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _newest_first(names: Iterable[str]) -> list[str]:
    steps = {name: int(match[1]) for name in names if (match := NAME.fullmatch(name))}
    return sorted(steps, key=lambda name: steps[name], reverse=True)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:CHECKSUM_LENGTH]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
