"""Where images come from: one module a source, each with ``read(data: DataParams) -> Source``.

``read`` checks the form, the labels and the class names, and raises ``UserError`` that names the file; it decodes
no image yet.
"""

from __future__ import annotations

from tasks.params import DataParams
from tasks.sources import cifar, digits, imagefolder, parquet
from tasks.sources.base import Source

READERS = {
    "digits": digits.read,
    "cifar10": cifar.read,
    "cifar100": cifar.read,
    "imagefolder": imagefolder.read,
    "parquet": parquet.read,
}


def read(data: DataParams) -> Source:
    return READERS[data.source](data)
