"""Whether prepared images fit on the disk, asked before the work; and one line if it fills up all the same."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from condensenet.data.manifest import Encoding
from tasks.console import size
from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources.base import Part
from tasks.sources.examine import examine

PLACES = 64  # of a part, evenly spread, as images of a class lie together
IMAGES_AT_A_PLACE = 8  # which a Parquet file unpacks together
KNOWN_SIZES = 2**14  # of a part, evenly spread; of more, asking a slow file system would take minutes
MARGIN = 1.1  # photographs' sizes deviate by 2/3 of their mean, so the mean of 512 by 3%, and more within classes
INDEX_BYTES = 256  # for each image: its label, its place and the record of its shard


def sampled_bytes(parts: Sequence[Part], data: DataParams, encoding: Encoding) -> float:
    """The mean size of a stored image, from every part. Raises ``OtherSize`` as ``examine`` does.

    Images that are stored as they are need not be read if the source knows their sizes; others are made, a sample.
    """
    as_is = encoding == "encoded" and data.shorter_side is None
    total, count = 0.0, 0
    for part in {id(part): part for part in parts}.values():
        known = part.sizes if as_is else None
        sizes = _made_sizes(part, data, encoding) if known is None else known(_spread(len(part.labels), KNOWN_SIZES))
        if len(sizes):
            total += float(np.mean(sizes)) * len(part.labels)
            count += len(part.labels)
    return total / max(1, count) + INDEX_BYTES


def _spread(count: int, wanted: int) -> np.ndarray:
    """At most ``wanted`` of ``count`` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def _made_sizes(part: Part, data: DataParams, encoding: Encoding) -> Sequence[int]:
    """The bytes of a sample of the images as they will be stored; corrupt ones are left out."""
    assert not isinstance(part.images, np.ndarray)
    count, sizes = len(part.labels), []
    starts = _spread(max(1, count - IMAGES_AT_A_PLACE + 1), PLACES)
    indices = np.unique(starts[:, None] + np.arange(IMAGES_AT_A_PLACE))
    for _, content in part.images(indices[indices < count])():
        with suppress(ValueError):
            sizes.append(len(examine(content, data, encoding).content))
    return sizes


def check_space(folder: Path, needed: float) -> None:
    """Raise ``UserError`` if there is no room for ``needed`` bytes beside ``folder``."""
    free = shutil.disk_usage(folder).free
    if needed * MARGIN > free:
        raise UserError(
            f"{folder.parent}: the prepared images need about {size(needed * MARGIN)}, but {size(free)} is free: "
            "make room, or store smaller images (data.shorter_side)"
        )


@contextmanager
def one_line_if_full(folder: Path) -> Iterator[None]:
    """Turn the error of a disk that has become full into a ``UserError``. The finished shards in ``folder`` stay."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder.parent}: the disk is full. Make room and run it again: what is finished is kept in {folder.name}"
        ) from None
