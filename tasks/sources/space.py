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

PLACES = 8  # of a part, evenly spread
IMAGES_AT_A_PLACE = 8
MARGIN = 1.05
INDEX_BYTES = 256  # for each image: its label, its place and the record of its shard


def sampled_bytes(parts: Sequence[Part], data: DataParams, encoding: Encoding) -> float:
    """The mean size of a stored image, from a sample of every part. Raises ``OtherSize`` as ``examine`` does."""
    sizes = []
    for part in {id(part): part for part in parts}.values():
        assert not isinstance(part.images, np.ndarray)
        starts = np.linspace(0, max(0, len(part.labels) - IMAGES_AT_A_PLACE), PLACES).astype(int)
        indices = np.unique(starts[:, None] + np.arange(IMAGES_AT_A_PLACE))
        for _, content in part.images(indices[indices < len(part.labels)])():
            with suppress(ValueError):
                sizes.append(len(examine(content, data, encoding).content))
    return sum(sizes) / max(1, len(sizes)) + INDEX_BYTES


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
