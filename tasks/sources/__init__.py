"""The sources of images, one module each with ``read(data: DataParams) -> Source``.

``read`` checks the format, the labels and the class names, and raises a ``UserError`` that names the file. It does not
decode images yet.
"""

from __future__ import annotations

from tasks.params import DataParams
from tasks.sources import cifar, digits, imagefolder, imagenet, parquet
from tasks.sources.base import Source

READERS = {
    "digits": digits.read,
    "cifar10": cifar.read,
    "cifar100": cifar.read,
    "imagefolder": imagefolder.read,
    "imagenet": imagenet.read,
    "parquet": parquet.read,
}


def read(data: DataParams) -> Source:
    return READERS[data.source](data)
