"""Image files as they come from anywhere: damaged and hostile ones raise, and none ends the process."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from bounds import within_bounds
from hypothesis import given
from hypothesis import strategies as st
from image_bytes import encoded
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from condensenet.data.decoding import decode
from condensenet.data.image_files import PNG_SIGNATURE, check_header
from condensenet.data.preprocess import load_images
from condensenet.preprocessing import Preprocessing

ROWS = b"".join(b"\0" + bytes(range(row, row + 24)) for row in range(8))
PREPROCESSING = Preprocessing(image_size=8, resize_shorter=9, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    packed: bytes, *, side: int = 8, bits: int = 8, colour: int = 2, interlaced: int = 0, extra: bytes = b""
) -> bytes:
    """A file whose checksums are right, whatever ``packed`` is."""
    header = struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, interlaced)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def picture(side: int = 24) -> Image.Image:
    pixels = np.kron(np.random.default_rng(0).random((3, 3, 3)), np.ones((side // 3, side // 3, 1)))
    return Image.fromarray((pixels * 255).astype(np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        png(zlib.compress(ROWS.replace(b"\0\0", b"\7\0"))),
        png(zlib.compress(ROWS), interlaced=1),
        png(b"not compressed at all"),
        png(b""),
    ],
    ids=["a filter that does not exist", "not interlaced", "not compressed", "nothing"],
)
def test_rows_that_end_a_process_inside_torchvision_raise(content: bytes) -> None:
    with pytest.raises(ValueError, match="it is no whole PNG file"):
        decode(content, 3)


def test_a_file_that_ends_early_but_properly_is_filled_up() -> None:
    """As by most programs that show images; torchvision's decoder ends the process."""
    image = decode(png(zlib.compress(ROWS[:50])), 3)
    assert image[:, 2:].max() == 0
    assert torch.equal(image[:, :2], decode(png(zlib.compress(ROWS)), 3)[:, :2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_gives_the_pixels_that_torchvision_gives(mode: str) -> None:
    content = encoded(picture().convert(mode), "PNG")
    theirs = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    assert torch.equal(decode(content, 3), theirs)
    gray = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.GRAY)
    assert (decode(content, 1).int() - gray.int()).abs().max() <= 1  # colour to gray is rounded elsewhere


def test_sixteen_bits_are_refused() -> None:
    rows = b"".join(b"\0" + bytes(48) for _ in range(8))
    with pytest.raises(ValueError, match="it has 16 bits a channel, not 8"):
        decode(png(zlib.compress(rows), bits=16), 3)


@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
    channels=st.sampled_from([1, 3]),
)
def test_bytes_that_were_changed_raise_or_give_an_image(
    kind: str, places: list[tuple[float, int]], kept: float, channels: int
) -> None:
    content = bytearray(encoded(picture(), kind))
    for place, value in places:
        content[int(place * len(content))] = value
    damaged = bytes(content[: round(max(kept, 0.5) * len(content))])
    with within_bounds(), suppress(ValueError):
        check_header(damaged)
        assert decode(damaged, channels).shape[0] == channels
        if channels == 3:
            assert load_images([damaged], PREPROCESSING).shape == (1, 3, 8, 8)


def test_predicting_believes_no_header_and_names_the_file(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(b"", side=60_000))
    with pytest.raises(ValueError, match=r"bomb.png cannot be decoded: its header is not believed: "):
        load_images([bomb], PREPROCESSING)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(png(b"not compressed at all"))
    with pytest.raises(ValueError, match=r"damaged.png cannot be decoded: it is no whole PNG file"):
        load_images([damaged], PREPROCESSING)
