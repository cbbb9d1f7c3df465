"""What a folder of prepared images says about itself: ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from condensenet.config import ModelConfig

MANIFEST = "manifest.json"
FORMAT = 1
SPLITS = ("train", "validation", "test")
Encoding = Literal["raw", "encoded"]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of the prepared form."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of one prepared data set.

    ``mean`` and ``std`` are those of the training images' pixels, by channel, in 0..1 units. ``splits`` counts the
    images of each of train, validation and test (0: there is none). ``corrupt`` names the images that were left out.
    ``fingerprint`` stands for the content in its order: two folders with the same one hold the same images.
    """

    name: str
    classes: tuple[str, ...]
    encoding: Encoding  # raw: uint8 pixels of one shape; encoded: JPEG or PNG files, one after another
    image_size: int  # height and width in pixels of an image as the network sees it
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, int]
    fingerprint: str
    files: Mapping[str, FileEntry]
    source: Mapping[str, Any] = field(default_factory=dict)
    corrupt: tuple[str, ...] = ()
    format: int = FORMAT

    def check_model(self, config: ModelConfig) -> None:
        """Raise ``ValueError`` when a network of ``config`` cannot take these images or name these classes."""
        if config.num_classes != len(self.classes):
            raise ValueError(
                f"num_classes={config.num_classes} is not allowed: the data {self.name} has {len(self.classes)} classes"
            )
        if config.in_channels != self.channels:
            raise ValueError(
                f"in_channels={config.in_channels} is not allowed: images of {self.name} have {self.channels} channels"
            )


def fingerprint(classes: tuple[str, ...], encoding: str, shape: tuple[int, int], files: Mapping[str, FileEntry]) -> str:
    """sha256 over the class names, the form and the content of every file, in a fixed order."""
    content = [list(classes), encoding, list(shape), {name: files[name].sha256 for name in sorted(files)}]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def to_json(manifest: Manifest) -> str:
    return json.dumps(asdict(manifest), indent=1) + "\n"


def from_json(text: str, path: Path) -> Manifest:
    """Read what ``to_json`` wrote; ``ValueError`` names ``path`` when it is something else."""
    try:
        raw = json.loads(text)
        version = raw["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a manifest of prepared images") from None
    if version != FORMAT:
        raise ValueError(f"{path}: format={version!r} is not known: this version reads format {FORMAT}")
    try:
        raw["files"] = {name: FileEntry(**entry) for name, entry in raw["files"].items()}
        for name in ("classes", "mean", "std", "corrupt"):
            raw[name] = tuple(raw[name])
        return Manifest(**raw)
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is not a manifest of prepared images") from None
