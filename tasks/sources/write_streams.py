"""Prepares a stream of encoded images. Each is decoded once, in several threads, to find the corrupt ones.

If all images are small and have the network's input size, they are stored as raw pixels, which training need not
decode. Otherwise the encoded files are stored; images larger than ``data.shorter_side`` are first downscaled and
encoded as JPEG.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from condensenet.data import Manifest, PreparedWriter
from condensenet.data.decoding import decode, resize_shorter
from condensenet.data.manifest import Encoding
from condensenet.data.writing import histogram
from condensenet.machine import usable_cores
from tasks.console import progress, say
from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources.base import Part, Source, Stream

RAW_MAX_SIZE = 96  # pixels; raw pixels of larger images would take too much disk space
SAMPLE = 64  # images checked before trying to store all as raw pixels
JPEG_QUALITY = 90  # of downscaled images
CORRUPT_NAMED = 10  # corrupt images beyond the limit that are read, so the error can name them together
IMAGES_AHEAD = 256


class _OtherSize(Exception):
    """An image does not have the network's input size."""


@dataclass(frozen=True)
class _Examined:
    """``content`` is what to store; None: the image is corrupt, and ``reason`` says why."""

    name: str
    content: bytes | None
    histogram_CV: np.ndarray
    reason: str = ""


def write_streams(name: str, data: DataParams, source: Source, held_out: np.ndarray, root: Path) -> Manifest:
    """Prepare a ``source`` of image streams in the folder ``root``. ``held_out`` marks validation images: bool (N,)."""
    if _may_be_raw(data, source.train.images):  # type: ignore[arg-type]
        try:
            return _write(name, data, source, held_out, root, "raw")
        except _OtherSize:
            say(f"not all images have {data.image_size}x{data.image_size} pixels: they stay encoded")
    return _write(name, data, source, held_out, root, "encoded")


def _may_be_raw(data: DataParams, images: Stream) -> bool:
    return data.image_size <= RAW_MAX_SIZE and all(
        _size(content, data.channels) in (None, (data.image_size, data.image_size))
        for _, content in islice(images(), SAMPLE)
    )


def _size(content: bytes, channels: int) -> tuple[int, int] | None:
    try:
        height, width = decode(content, channels).shape[1:]
    except ValueError:
        return None
    return height, width


def _write(
    name: str, data: DataParams, source: Source, held_out: np.ndarray, root: Path, encoding: Encoding
) -> Manifest:
    corrupt: list[str] = []
    with PreparedWriter(
        root,
        name=name,
        classes=source.classes,
        encoding=encoding,
        image_size=data.image_size,
        channels=data.channels,
    ) as writer:
        for split, part in (("train", source.train), ("test", source.test)):
            for index, image in _examined(data, part, split, encoding):
                if image.content is None:
                    _note_corrupt(corrupt, image, data, part)
                    continue
                into = "validation" if split == "train" and held_out[index] else split
                writer.splits[into].add(image.content, int(part.labels[index]))
                if into == "train":
                    writer.histogram_CV += image.histogram_CV
            _check_corrupt(corrupt, data, part)
            if not writer.splits[split].labels:
                raise UserError(f"{part.location}: all of its {len(part.labels)} {split} images are corrupt")
        return writer.finish(source=source.facts, corrupt=corrupt)


def _note_corrupt(corrupt: list[str], image: _Examined, data: DataParams, part: Part) -> None:
    corrupt.append(image.name)
    say(f"corrupt image {len(corrupt)}: {image.name}: {image.reason}")
    if len(corrupt) > data.max_corrupt + CORRUPT_NAMED:
        _check_corrupt(corrupt, data, part)


def _check_corrupt(corrupt: list[str], data: DataParams, part: Part) -> None:
    if len(corrupt) > data.max_corrupt:
        named = "; ".join(corrupt[:CORRUPT_NAMED]) + ("; ..." if len(corrupt) > CORRUPT_NAMED else "")
        raise UserError(f"{part.location}: {len(corrupt)} corrupt images, data.max_corrupt={data.max_corrupt}: {named}")


def _examined(data: DataParams, part: Part, split: str, encoding: Encoding) -> Iterator[tuple[int, _Examined]]:
    """Every image of ``part`` in order, decoded in threads that run a limited number of images ahead."""
    images = part.images()  # type: ignore[operator]
    pending: deque[Future[_Examined]] = deque()
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="examine") as pool:

        def results() -> Iterator[_Examined]:
            for name, content in images:
                pending.append(pool.submit(_examine, name, content, data, encoding))
                if len(pending) > IMAGES_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

        try:
            yield from enumerate(progress(results(), len(part.labels), f"prepare {split}"))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _examine(name: str, content: bytes, data: DataParams, encoding: Encoding) -> _Examined:
    try:
        image = decode(content, data.channels)
    except ValueError as error:
        return _Examined(name, None, np.zeros((data.channels, 256), dtype=np.int64), str(error))
    if encoding == "raw":
        if image.shape[1:] != (data.image_size, data.image_size):
            raise _OtherSize
        content = image.numpy().tobytes()
    elif data.shorter_side is not None and min(image.shape[1:]) > data.shorter_side:
        image = resize_shorter(image, data.shorter_side)
        content = _jpeg(image)
    return _Examined(name, content, histogram(image.numpy()[None]))


def _jpeg(image_CHW: Tensor) -> bytes:
    from torchvision.io import encode_jpeg

    return encode_jpeg(image_CHW.contiguous(), quality=JPEG_QUALITY).numpy().tobytes()
