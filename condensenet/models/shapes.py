"""The shape of a network's input images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from condensenet.preprocessing import MAX_PIXELS
from condensenet.text import shown


def image_shape(model: nn.Module, input_size: int | Sequence[int]) -> tuple[int, int, int]:
    """(channels of the first convolution, height, width); ``input_size`` is (height, width) in pixels, or one number.

    Raises ``ValueError`` for anything else, for sizes below 1 or above 4096, and for a model without a convolution.
    """
    pixels = [input_size, input_size] if isinstance(input_size, int) else input_size
    is_pair = isinstance(pixels, Sequence) and len(pixels) == 2 and all(isinstance(side, int) for side in pixels)
    if not is_pair or min(pixels) < 1 or max(pixels) > MAX_PIXELS:
        allowed = f"it must be height and width in pixels, 1 to {MAX_PIXELS}"
        raise ValueError(f"input_size={shown(input_size)} is not allowed: {allowed}")
    height, width = pixels
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no convolution, so the number of its input channels is unknown")
    return first.in_channels, height, width
