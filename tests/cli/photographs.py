"""Small pictures in folders, as a user's photographs would lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_photos(root: Path) -> Path:
    """Three folders of eight pictures, told apart by their colour, of several sizes and formats."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir(parents=True)
        for number in range(8):
            height, width = 20 + number, 24 + 2 * number
            pixels = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
            pixels[..., 2 - label] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.{('jpg', 'png')[number % 2]}")
    return root
