"""What a network expects of an image, and what its answers are called: it travels with the network in every file.

Nothing here imports torch. ``condensenet.data.preprocess`` applies it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from condensenet.config.checks import between, check_types, require
from condensenet.text import escaped, shown

MAX_PIXELS = 4096  # a side of the input, as in the pipeline's parameters
MAX_NORM = 10**6  # of mean and std: pixels are in [0, 1]
EVALUATION_MARGIN = 256 / 224  # shorter side before the centre crop / size of the crop


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image file to the network's input, and from a class's number to its name.

    The image is decoded to ``channels`` (3: RGB, 1: grayscale). Its shorter side is resized to ``resize_shorter``
    pixels (bilinear, antialiased) and the centre of ``image_size`` x ``image_size`` pixels is cropped. Each channel
    becomes (pixel / 255 - mean) / std. ``classes`` are the names in the order of the logits; empty if unknown.
    """

    image_size: int
    resize_shorter: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    interpolation: Literal["bilinear"] = "bilinear"
    crop: Literal["center"] = "center"

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("mean", "std", "classes"):
            value = getattr(self, name)
            require(isinstance(value, (list, tuple)), f"{name}={shown(value)} is not allowed: it must be a list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        between(1, MAX_PIXELS, image_size=self.image_size, resize_shorter=self.resize_shorter)
        require(self.channels in (1, 3), f"channels={self.channels} is not allowed: 1 (grayscale) or 3 (RGB)")
        for name in ("mean", "std"):
            values = getattr(self, name)
            require(
                len(values) == self.channels
                and all(isinstance(value, (int, float)) and -MAX_NORM <= value <= MAX_NORM for value in values),
                f"{name}={shown(list(values))} is not allowed: a number in [-{MAX_NORM}, {MAX_NORM}] for each of the "
                f"{self.channels} channels",
            )
        texts = all(isinstance(name, str) for name in self.classes)
        require(texts, f"classes={shown(self.classes)} is not allowed: the names must be texts")
        object.__setattr__(self, "classes", tuple(escaped(name) for name in self.classes))
        require(min(self.std) > 0, f"std={list(self.std)} is not allowed: it must be above 0")
        require(
            self.resize_shorter >= self.image_size,
            f"resize_shorter={self.resize_shorter} is not allowed: it must be image_size={self.image_size} or more",
        )

    def class_name(self, label: int) -> str:
        """The name of class ``label``, or the number itself if names are unknown."""
        return self.classes[label] if self.classes else str(label)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON and model files."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """The inverse of ``as_dict``; raises ``ValueError`` for anything else."""
        try:
            return cls(**content)
        except TypeError as error:  # a field of another version, or one that is missing
            raise ValueError(f"preprocessing: {error}") from None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Preprocessing | None:
        """From the metadata properties of an ONNX file, which are ``as_dict``, each value that is no text as JSON.

        None if one of them is missing. Raises ``ValueError`` for a value that is not allowed.
        """
        names = [field.name for field in fields(cls)]
        if not metadata.keys() >= set(names):
            return None
        texts = ("interpolation", "crop")
        try:
            values: dict[str, Any] = {
                name: metadata[name] if name in texts else json.loads(metadata[name]) for name in names
            }
        except (ValueError, RecursionError):
            raise ValueError("preprocessing: the metadata is not JSON") from None
        return cls.from_dict(values)


def resize_shorter(image_size: int) -> int:
    """The shorter side in pixels to which images are resized before the centre crop of ``image_size``."""
    return round(image_size * EVALUATION_MARGIN)
