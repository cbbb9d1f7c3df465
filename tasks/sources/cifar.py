"""CIFAR-10 and CIFAR-100 in their "python batches" form: pickled arrays, from the archive or its unpacked folder.

Source: https://www.cs.toronto.edu/~kriz/cifar.html. A pickle can carry code: only arrays and plain data are let in.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources.base import Part, Source, check_range, given_path
from tasks.sources.download import downloaded

Read = Callable[[str], bytes]  # the content of a batch file by its name


@dataclass(frozen=True)
class Form:
    """How one of the two is laid out."""

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str

    @property
    def url(self) -> str:
        return f"https://www.cs.toronto.edu/~kriz/{self.archive}"


FORMS = {
    "cifar10": Form(
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        labels="labels",
        names="label_names",
    ),
    "cifar100": Form(
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
    ),
}
SIZE, CHANNELS = 32, 3
PERMITTED = {  # what the pickle of an array names, in old and new numpy
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read(data: DataParams) -> Source:
    form = FORMS[data.source]
    path = downloaded(form.url, form.md5) if data.path is None else _find(given_path(data), form)
    place, content = (str(path), _folder(path)) if path.is_dir() else (str(path), _archive(path))
    names = _field(_load(content(form.meta), f"{place}/{form.meta}"), form.names, f"{place}/{form.meta}")
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise UserError(f"{place}/{form.meta}: {form.names} is not a list of names")
    classes = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)
    parts = []
    for files in (form.train, form.test):
        batches = [_batch(content(file), f"{place}/{file}", form, len(classes)) for file in files]
        parts.append(Part(place, np.concatenate([b[1] for b in batches]), np.concatenate([b[0] for b in batches])))
    return Source(classes=classes, train=parts[0], test=parts[1], facts={"origin": form.archive})


def _find(path: Path, form: Form) -> Path:
    """The archive or the folder of batches, given directly or by the folder that holds it."""
    if path.is_file():
        return path
    for candidate in (path, path / form.folder, path / form.archive):
        if (candidate / form.meta).exists() or candidate.is_file():
            return candidate
    raise UserError(f"{path}: neither {form.meta}, {form.folder}/ nor {form.archive} is in it")


def _folder(folder: Path) -> Read:
    def content(file: str) -> bytes:
        try:
            return (folder / file).read_bytes()
        except OSError as error:
            raise UserError(f"{folder / file} cannot be read: {error.strerror}") from None

    return content


def _archive(path: Path) -> Read:
    """The batch files of the archive, read once: a gzip stream cannot be searched."""
    try:
        with tarfile.open(path, "r:*") as archive:
            files = {
                Path(member.name).name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isfile()
            }
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):  # gzip's checksum stands at the end
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is not a whole tar archive: {str(error).partition(chr(10))[0]}") from None

    def content(file: str) -> bytes:
        if file not in files:
            raise UserError(f"{path}: {file} is not in the archive")
        return files[file]

    return content


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PERMITTED:
            return PERMITTED[module, name]
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither an array nor plain data")


def _latin1(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes in another encoding than latin1")
    return text.encode("latin1")


def _load(content: bytes, place: str) -> dict[str, Any]:
    """The dictionary of a batch file, its keys as text."""
    try:
        raw = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a broken pickle can raise anything
        reason = str(error) or type(error).__name__
        raise UserError(f"{place} is not a whole batch file: {reason}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{place} is not a batch file: it holds a {type(raw).__name__}, not a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in raw.items()}


def _field(batch: dict[str, Any], name: str, place: str) -> Any:
    if name not in batch:
        raise UserError(f"{place}: {name} is missing: it has {', '.join(sorted(batch))}")
    return batch[name]


def _batch(content: bytes, place: str, form: Form, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one checked batch file."""
    batch = _load(content, place)
    images = _field(batch, "data", place)
    pixels = CHANNELS * SIZE * SIZE
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (pixels,):
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise UserError(f"{place}: data is {found}, not uint8 (N, {pixels})")
    try:
        labels = np.asarray(_field(batch, form.labels, place), dtype=np.int64)
    except (TypeError, ValueError):
        raise UserError(f"{place}: {form.labels} are not whole numbers") from None
    if labels.shape != (len(images),):
        raise UserError(f"{place}: {len(images)} images and {labels.size} labels")
    check_range(place, labels, num_classes)
    return images.reshape(-1, CHANNELS, SIZE, SIZE), labels
