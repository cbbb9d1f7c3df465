"""``manifest.json``: the description of a folder of prepared images. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from condensenet.config import ModelConfig
from condensenet.files import read_regular
from condensenet.preprocessing import Preprocessing, resize_shorter
from condensenet.text import escaped

MANIFEST = "manifest.json"
FORMAT = 1
MAX_BYTES = 2**28  # the names of a million classes take a tenth of it
SPLITS = ("train", "validation", "test")
Encoding = Literal["raw", "encoded", "pixels"]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of the prepared form."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of one prepared data set.

    ``mean`` and ``std`` are those of the training images' pixels, per channel, in 0..1 units. ``splits`` holds the
    number of images in train, validation and test, which may be 0, and ``shards`` those in each file of a split
    (without an entry it has one file). ``corrupt`` names the images that were left out.
    ``fingerprint`` identifies the content: folders with the same fingerprint hold the same images in the same order.
    """

    name: str
    classes: tuple[str, ...]
    encoding: Encoding  # raw: uint8, all of the input's size; encoded: JPEG or PNG files; pixels: uint8 of any size
    image_size: int  # height and width in pixels of the network's input
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, int]
    fingerprint: str
    files: Mapping[str, FileEntry]
    source: Mapping[str, Any] = field(default_factory=dict)
    corrupt: tuple[str, ...] = ()
    shards: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    input_sized: bool = False  # every image has the input's size, so evaluation takes it as it is
    format: int = FORMAT

    def check_model(self, config: ModelConfig) -> None:
        """Raise ``ValueError`` if a network of ``config`` does not fit these images or classes."""
        if config.num_classes != len(self.classes):
            raise ValueError(
                f"num_classes={config.num_classes} is not allowed: the data {self.name} has {len(self.classes)} classes"
            )
        if config.in_channels != self.channels:
            raise ValueError(
                f"in_channels={config.in_channels} is not allowed: images of {self.name} have {self.channels} channels"
            )

    @property
    def preprocessing(self) -> Preprocessing:
        """What a network that is trained on these images expects of others.

        Images that all have the input's size are used whole, so others are resized to it without a margin to crop.
        """
        is_whole = self.input_sized or self.encoding == "raw"
        return Preprocessing(
            image_size=self.image_size,
            resize_shorter=self.image_size if is_whole else resize_shorter(self.image_size),
            channels=self.channels,
            mean=self.mean,
            std=self.std,
            classes=self.classes,
        )

    def images_files(self, split: str) -> dict[str, int]:
        """The number of images in each file of ``split``, by name, in order."""
        counts = self.shards.get(split) or (self.splits.get(split, 0),)
        return dict(zip(images_files(split, len(counts)), counts, strict=True))

    @property
    def all_images_files(self) -> set[str]:
        """The names of the files that hold images, of all splits."""
        return {file for split, count in self.splits.items() if count for file in self.images_files(split)}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest; raises ``OSError`` if there is no file, ``ValueError`` if it is not a manifest."""
        try:
            raw = json.loads(read_regular(path, MAX_BYTES))
            version = raw["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{path} is not a manifest of prepared images") from None
        if version != FORMAT:
            raise ValueError(f"{path}: format={version!r} is not supported: this version reads format {FORMAT}")
        try:
            raw["files"] = {name: FileEntry(**entry) for name, entry in raw["files"].items()}
            raw["shards"] = {name: tuple(counts) for name, counts in raw.get("shards", {}).items()}
            for name in ("classes", "mean", "std", "corrupt"):
                raw[name] = tuple(raw[name])
            for name in ("classes", "corrupt"):  # they come from file names, and go into messages, tables and metadata
                raw[name] = tuple(escaped(text) for text in raw[name])
            return cls(**raw)
        except (AttributeError, KeyError, TypeError):
            raise ValueError(f"{path} is not a manifest of prepared images") from None


def images_files(split: str, shards: int) -> list[str]:
    """The names of the files that hold the images of a split, one per shard."""
    if shards == 1:
        return [f"{split}.images.bin"]
    return [f"{split}-{number:05d}-of-{shards:05d}.images.bin" for number in range(shards)]


def fingerprint(classes: tuple[str, ...], encoding: str, shape: tuple[int, int], files: Mapping[str, FileEntry]) -> str:
    """sha256 over the class names, the format and the content of every file, in a fixed order."""
    content = [list(classes), encoding, list(shape), {name: files[name].sha256 for name in sorted(files)}]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
