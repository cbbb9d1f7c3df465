"""Preparing a stream of encoded images: each is decoded once, to know that it is whole, in several threads.

Small images that all have the size that the network sees are stored as raw pixels, so that training need not decode;
others are stored as the files they are or, above ``data.shorter_side``, made smaller and encoded again as JPEG.
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

RAW_MAX_SIZE = 96  # pixels; larger images of one size are kept encoded: raw ones would fill the disk
SAMPLE = 64  # images looked at to see whether all may be of the size that the network sees
JPEG_QUALITY = 90  # of images that are made smaller
CORRUPT_NAMED = 10  # past the limit, reading goes on for so many more corrupt images, to name them at once
IMAGES_AHEAD = 256


class _OtherSize(Exception):
    """Not all images have the size that the network sees."""


@dataclass(frozen=True)
class _Examined:
    """``content`` is what will be stored; None: corrupt, for ``reason``."""

    name: str
    content: bytes | None
    histogram_CV: np.ndarray
    reason: str = ""


def write_streams(name: str, data: DataParams, source: Source, held: np.ndarray, root: Path) -> Manifest:
    """Prepare ``source``, whose images are streams, into the folder ``root``; ``held`` marks the validation images."""
    if _looks_uniform(data, source.train.images):  # type: ignore[arg-type]
        try:
            return _write(name, data, source, held, root, "raw")
        except _OtherSize:
            say(f"the images are not all of {data.image_size}x{data.image_size} pixels: they are kept encoded")
    return _write(name, data, source, held, root, "encoded")


def _looks_uniform(data: DataParams, images: Stream) -> bool:
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


def _write(name: str, data: DataParams, source: Source, held: np.ndarray, root: Path, encoding: Encoding) -> Manifest:
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
                into = "validation" if split == "train" and held[index] else split
                writer.splits[into].add(image.content, int(part.labels[index]))
                if into == "train":
                    writer.histogram_CV += image.histogram_CV
            _check_corrupt(corrupt, data, part)
            if not writer.splits[split].labels:
                raise UserError(f"{part.place}: none of its {len(part.labels)} images for {split} is whole")
        return writer.finish(source=source.facts, corrupt=corrupt)


def _note_corrupt(corrupt: list[str], image: _Examined, data: DataParams, part: Part) -> None:
    corrupt.append(image.name)
    say(f"corrupt image {len(corrupt)}: {image.name}: {image.reason}")
    if len(corrupt) > data.max_corrupt + CORRUPT_NAMED:
        _check_corrupt(corrupt, data, part)


def _check_corrupt(corrupt: list[str], data: DataParams, part: Part) -> None:
    if len(corrupt) > data.max_corrupt:
        named = "; ".join(corrupt[:CORRUPT_NAMED]) + ("; ..." if len(corrupt) > CORRUPT_NAMED else "")
        raise UserError(f"{part.place}: {len(corrupt)} corrupt images, data.max_corrupt={data.max_corrupt}: {named}")


def _examined(data: DataParams, part: Part, label: str, encoding: Encoding) -> Iterator[tuple[int, _Examined]]:
    """Every image of ``part`` in its order, decoded in threads a limited number ahead."""
    items = part.images()  # type: ignore[operator]
    waiting: deque[Future[_Examined]] = deque()
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="examine") as pool:

        def results() -> Iterator[_Examined]:
            for item in items:
                waiting.append(pool.submit(_examine, item[0], item[1], data, encoding))
                if len(waiting) > IMAGES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield from enumerate(progress(results(), len(part.labels), f"prepare {label}"))
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
