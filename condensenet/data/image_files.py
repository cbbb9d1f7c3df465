"""Image files that nobody has looked at yet: whether they may be decoded, and PNG, which torchvision cannot be given.

A PNG whose compressed rows are wrong, by damage or by malice, ends the process inside torchvision's decoder (0.29).
Pillow, without which torchvision does not install, gives the same pixels and raises.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import torch
from torch import Tensor

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
MAX_BYTES = 2**28  # of a file: the pixels that are believed, three bytes each
MAX_RATIO = 40  # of an image's sides: the resize for evaluation would blow up a longer one
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_BITS = 24  # where the file tells the bits of a channel
RAISED = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
)  # by Pillow for damaged files


def check_header(content: bytes) -> int:
    """The pixels that the header claims.

    Raises ``ValueError`` if they are more than Pillow's limit of 89 million, one side is more than 40 times the other,
    or the file is no JPEG, PNG, GIF (of one image) or WebP.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise ValueError("it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                is_animated = image.format == "GIF" and getattr(image, "is_animated", False)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"its header is not believed: {error}") from None
    except RAISED as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise ValueError(f"it is no whole {', '.join(FORMATS)} file{reason}") from None
    if is_animated:
        raise ValueError("it is animated")
    check_sides(width, height)
    return width * height


def check_sides(width: int, height: int) -> None:
    """Raise ``ValueError`` for no pixels, and for a side more than 40 times as long as the other."""
    if min(width, height) < 1 or max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"{width}x{height} pixels: one side is more than {MAX_RATIO} times the other")


def is_png(content: np.ndarray | bytes) -> bool:
    return bytes(content[: len(PNG_SIGNATURE)]) == PNG_SIGNATURE


def decode_png(content: np.ndarray | bytes, channels: int) -> Tensor:
    """uint8 (channels, H, W); transparency is dropped. Raises ``ValueError`` if the file is damaged or has 16 bits."""
    from PIL import Image

    file_bytes = bytes(content)
    try:
        with Image.open(io.BytesIO(file_bytes), formats=("PNG",)) as file:
            file.verify()  # the checksums
        with Image.open(io.BytesIO(file_bytes), formats=("PNG",)) as file:
            pixels = np.asarray(file.convert("RGB" if channels == 3 else "L"))
    except RAISED as error:
        raise ValueError(f"it is no whole PNG file: {error}") from None
    if file_bytes[PNG_BITS] == 16:
        raise ValueError("it has 16 bits a channel, not 8")
    return torch.from_numpy(np.array(pixels.reshape(*pixels.shape[:2], channels))).permute(2, 0, 1)
