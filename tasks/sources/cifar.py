"""CIFAR-10 and CIFAR-100, read by torchvision from the official archive or its extracted folder.

Source: https://www.cs.toronto.edu/~kriz/cifar.html. The batches are pickles, which can run code when they are loaded:
only files with the published MD5 are loaded.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import socket
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from tasks import locks, paths
from tasks.console import say
from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources.base import Part, Source, data_path

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

TIMEOUT_S = 30.0


def read(data: DataParams) -> Source:
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = CIFAR10 if data.source == "cifar10" else CIFAR100
    if data.path is None:
        root = paths.state() / "downloads"
        _download(dataset, root)
        return _read(dataset, root, str(root / dataset.base_folder))
    path = _find(data_path(data), dataset)
    with TemporaryDirectory() as folder:  # laid out as torchvision expects it
        root = Path(folder)
        if path.is_dir():
            (root / dataset.base_folder).symlink_to(path.resolve())
        else:
            _extract(path, root)
        return _read(dataset, root, str(path))


def _find(path: Path, dataset: type[CIFAR10]) -> Path:
    """The archive or the folder of batches: ``path`` itself or what lies in it."""
    if path.is_file():
        return path
    meta = dataset.meta["filename"]
    for candidate in (path, path / dataset.base_folder, path / dataset.filename):
        if (candidate / meta).exists() or candidate.is_file():
            return candidate
    raise UserError(f"{path}: neither {meta}, {dataset.base_folder}/ nor {dataset.filename} is in it")


def _extract(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder, filter="data")
            else:  # Python before 3.11.4
                tar.extractall(folder, members=list(_plain(tar)))
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{archive} cannot be extracted: {' '.join(str(error).split())}") from None


def _plain(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of ``archive``; raises ``TarError`` for one that is no file or folder, or would lie outside."""
    for member in archive:
        name = PurePosixPath(member.name)
        if not (member.isreg() or member.isdir()) or name.is_absolute() or ".." in name.parts:
            raise tarfile.TarError(f"{member.name} is not a file or folder inside it")
        yield member


def _read(dataset: type[CIFAR10], root: Path, location: str) -> Source:
    _verify(dataset, root / dataset.base_folder, location)
    train, test = (dataset(root, train=train) for train in (True, False))
    parts = [
        Part(location, np.asarray(split.targets, dtype=np.int64), split.data.transpose(0, 3, 1, 2))  # from NHWC
        for split in (train, test)
    ]
    return Source(classes=tuple(train.classes), train=parts[0], test=parts[1], facts={"origin": dataset.filename})


def _verify(dataset: type[CIFAR10], folder: Path, location: str) -> None:
    """Raise ``UserError`` naming the file that is missing or altered; torchvision's own check does not name it."""
    meta = (dataset.meta["filename"], dataset.meta["md5"])
    for name, md5 in (*dataset.train_list, *dataset.test_list, meta):
        try:
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise UserError(f"{location}/{name} cannot be read: {error.strerror}") from None
        if actual != md5:
            raise UserError(f"{location}/{name} is not the published file: its MD5 is {actual}, not {md5}")


def _download(dataset: type[CIFAR10], root: Path) -> None:
    """Download and extract the archive, unless that has been done."""
    if not (root / dataset.filename).exists():
        say(f"downloading {dataset.url}")
    try:
        with locks.owned(root), _timeout(), nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            dataset(root, download=True)
    except (OSError, HTTPException, RuntimeError, tarfile.TarError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{dataset.url} cannot be downloaded ({reason}): download it elsewhere and set data.path to the file"
        ) from None


@contextmanager
def _timeout() -> Iterator[None]:
    """A limit on every network operation: torchvision sets none and would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
