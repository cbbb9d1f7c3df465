"""ImageNet as its archives are distributed; they are read where they lie, and nothing is extracted.

``data.path`` holds ``ILSVRC2012_img_train.tar`` (a tar file of a tar file for each class), ``ILSVRC2012_img_val.tar``
and the development kit, ``ILSVRC2012_devkit_t12.tar.gz``, whose ground truth labels the validation images.
Classes are the sorted WordNet IDs, and images are sorted by class and name: as in folders with one for each class.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from tasks.console import progress, say
from tasks.errors import UserError, first_line
from tasks.params import DataParams
from tasks.sources.base import Part, Source, Stream, data_path, file_state, identity
from tasks.sources.imagefolder import is_image

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH, META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError)


@dataclass(frozen=True)
class Places:
    """Where N images lie in an archive. Numbers are arrays: tuples would take half as much again."""

    names: list[str]
    start_N: np.ndarray  # int64: first byte in the archive
    bytes_N: np.ndarray  # int64

    @classmethod
    def by_name(cls, places: Sequence[tuple[str, int, int]]) -> Self:
        """``places``: the name, first byte and bytes of each image, in any order."""
        places = sorted(places)
        numbers = np.array([place[1:] for place in places], dtype=np.int64).reshape(-1, 2)
        return cls([name for name, *_ in places], numbers[:, 0].copy(), numbers[:, 1].copy())

    @classmethod
    def joined(cls, parts: Sequence[Places]) -> Self:
        parts = [cls.by_name([]), *parts]
        starts, sizes = (np.concatenate([getattr(part, key) for part in parts]) for key in ("start_N", "bytes_N"))
        return cls([name for part in parts for name in part.names], starts, sizes)

    def __len__(self) -> int:
        return len(self.names)

    def at(self, indices: np.ndarray) -> Places:
        return Places([self.names[index] for index in indices.tolist()], self.start_N[indices], self.bytes_N[indices])


def read(data: DataParams) -> Source:
    root = data_path(data)
    archives = {name: root / name for name in (TRAIN, VALIDATION, f"{DEVKIT}.tar.gz")}
    for path in archives.values():
        if not path.is_file():
            raise UserError(f"{path} is missing: data.path={data.path} must hold {', '.join(archives)}")
    wnids, truth = _devkit(archives[f"{DEVKIT}.tar.gz"])
    say(f"reading the index of {TRAIN} and {VALIDATION}")
    by_class, skipped = _train_places(archives[TRAIN], len(set(wnids.values())))
    classes = tuple(sorted(by_class))
    if unknown := sorted(set(classes) ^ set(wnids.values())):
        where = TRAIN if unknown[0] in by_class else DEVKIT
        raise UserError(
            f"{root}: {len(unknown)} classes are not in all archives, the first is {unknown[0]} (in {where})"
        )
    train = Places.joined([by_class[name] for name in classes])
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(by_class[name]) for name in classes])
    validation, others = _places(archives[VALIDATION])
    numbers = {id_: classes.index(wnids[id_]) for id_ in wnids}
    test_labels, test = _labelled(archives[VALIDATION], validation, truth, numbers)
    facts = {
        TRAIN: {"images": len(train), "other_files": skipped, "bytes": archives[TRAIN].stat().st_size},
        VALIDATION: {"images": len(test), "other_files": others, "bytes": archives[VALIDATION].stat().st_size},
    }
    return Source(
        classes=classes,
        train=_part(archives[TRAIN], labels, train),
        test=_part(archives[VALIDATION], test_labels, test),
        facts=facts,
    )


def _part(archive: Path, labels: np.ndarray, places: Places) -> Part:
    return Part(
        str(archive),
        labels,
        partial(_select, archive, places),
        identity([file_state(archive)]),
        sizes=lambda indices: places.bytes_N[indices],
    )


def _select(archive: Path, places: Places, indices: np.ndarray) -> Stream:
    return partial(_stream, archive, places.at(indices))


def _stream(archive: Path, places: Places) -> Iterator[tuple[str, bytes]]:
    try:
        with archive.open("rb", buffering=0) as file:
            for name, start, size in zip(places.names, places.start_N.tolist(), places.bytes_N.tolist(), strict=True):
                yield name, os.pread(file.fileno(), size, start)
    except OSError as error:
        raise UserError(f"{archive} cannot be read: {error.strerror}") from None


def _train_places(archive: Path, classes: int) -> tuple[dict[str, Places], int]:
    """The images of each class, of which there should be as many as ``classes``, and the number of other files."""
    by_class: dict[str, Places] = {}
    skipped = 0
    with _open(archive) as outer:
        for member in progress(outer.members(), classes, f"index of {TRAIN}", units="classes"):
            name, suffix = os.path.splitext(os.path.basename(member.name))
            if not member.isfile() or suffix != ".tar" or name.startswith("."):
                skipped += member.isfile()
                continue
            content = outer.tar.extractfile(member)
            by_class[name], others = Places.by_name([]), 0
            if member.size:
                by_class[name], others = _places(archive, content, member.offset_data, f"{name}/")
            skipped += others
    return by_class, skipped


def _places(archive: Path, content: Any = None, offset: int = 0, folder: str = "") -> tuple[Places, int]:
    """The images in a tar file, which may be ``content``, from byte ``offset`` of ``archive`` on; the other files."""
    places, others = [], 0
    with _open(archive, content) as tar:
        for member in tar.members():
            name = os.path.basename(member.name)
            if member.isfile() and is_image(name):
                places.append((folder + name, offset + member.offset_data, member.size))
            else:
                others += member.isfile()
    return Places.by_name(places), others


class _open:
    """``with _open(path) as tar``: an uncompressed tar file; if it is damaged or cut, a ``UserError`` names it."""

    def __init__(self, path: Path, content: Any = None) -> None:
        self.path, self.content = path, content

    def __enter__(self) -> Self:
        try:
            self._file = self.content or self.path.open("rb")
            self.tar = tarfile.open(fileobj=self._file, mode="r:")
        except DAMAGED as error:
            raise self._error(error) from None
        return self

    def members(self) -> Iterator[tarfile.TarInfo]:
        """All members. ``tarfile`` takes a damaged header for the end, so the end must be where the last one says."""
        end = 0
        for member in self.tar:
            end = member.offset_data + (
                -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE if member.isreg() else 0
            )
            yield member
        self._file.seek(end)
        if self._file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"there is no header at byte {end}")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.tar.close()
        self._file.close()
        if isinstance(error, DAMAGED):
            raise self._error(error) from None

    def _error(self, error: BaseException) -> UserError:
        return UserError(f"{self.path} is cut, damaged or not a tar file: {first_line(error)}")


def _labelled(archive: Path, places: Places, truth: list[int], labels: dict[int, int]) -> tuple[np.ndarray, Places]:
    """The validation images, in the order of their names, with the labels of the ground truth; sorted by class."""
    if len(places) != len(truth):
        raise UserError(f"{archive} has {len(places)} images, but the ground truth in {DEVKIT} has {len(truth)} lines")
    label_N = np.array([labels[number] for number in truth], dtype=np.int64)
    order = np.argsort(label_N, kind="stable")
    return label_N[order], places.at(order)


def _devkit(path: Path) -> tuple[dict[int, str], list[int]]:
    """The WordNet ID of each class number, and the class numbers of the validation images."""
    import scipy.io

    try:
        with tarfile.open(path, "r:gz") as tar:
            content = {name: _member(tar, f"{DEVKIT}/{name}") for name in (GROUND_TRUTH, META)}
        synsets = scipy.io.loadmat(io.BytesIO(content[META]), squeeze_me=True)["synsets"]
        leaves = [each for each in np.atleast_1d(synsets) if each["num_children"] == 0]
        wnids = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in leaves}
        truth = [int(line) for line in content[GROUND_TRUTH].split()]
    except (*DAMAGED, KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not the development kit of ILSVRC 2012: {first_line(error)}") from None
    if unknown := set(truth) - set(wnids):
        raise UserError(f"{path}: its ground truth has class {min(unknown)}, which {META} does not know")
    return wnids, truth


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read()
