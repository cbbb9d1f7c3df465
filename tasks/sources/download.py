"""Files fetched once, kept in ``state/downloads`` and checked by their published checksum."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from tasks import paths
from tasks.console import progress, say
from tasks.errors import UserError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30


def downloaded(url: str, md5: str) -> Path:
    """The file at ``url``, whole; from ``state/downloads`` if it is there already."""
    target = paths.state() / "downloads" / url.rpartition("/")[2]
    if target.exists() and hashlib.md5(target.read_bytes()).hexdigest() == md5:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"downloading {url}")
    handle, part = tempfile.mkstemp(prefix=f"{target.name}.part-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            found = _fetch(url, file)
        if found != md5:
            raise UserError(f"{url}: its md5 is {found}, not the published {md5}")
        os.replace(part, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
    return target


def _fetch(url: str, file: BinaryIO) -> str:
    """Copy the content of ``url`` and give its md5."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            size = int(response.headers.get("Content-Length") or 0)
            chunks: Iterator[bytes] = iter(lambda: response.read(CHUNK_BYTES), b"")
            for chunk in progress(chunks, -(-size // CHUNK_BYTES), "download, MiB"):
                digest.update(chunk)
                file.write(chunk)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{url} cannot be read ({reason}): fetch it elsewhere and give its place as data.path"
        ) from None
    return digest.hexdigest()
