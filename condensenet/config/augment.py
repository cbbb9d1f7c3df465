"""Random augmentation of training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensenet.config.bounds import MAX_CROP, MAX_MAGNITUDE, MAX_OPERATIONS, MAX_PAD
from condensenet.config.checks import between, check_types, require


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random augmentation of training images, a function of (seed, epoch, image index) alone.

    ``crop="pad"`` pads by ``pad`` zero pixels and takes a random crop of the original size. ``crop="resized"`` is the
    random resized crop of ImageNet training; evaluation then takes the centre crop. The crop is made ``crop_size``
    pixels wide and high, so images of training may be smaller than those of evaluation.
    """

    crop: Literal["none", "pad", "resized"] = "none"
    pad: int = 0
    flip: bool = False
    crop_size: int | None = None  # of resized crops; null: the network's input size
    first_crop_size: int | None = None  # in the first epochs, growing to crop_size (progressive resizing); null: off
    randaugment: int = 0  # operations of RandAugment on each image, after crop and flip; 0: off
    randaugment_magnitude: int = 9  # in 0..30

    def __post_init__(self) -> None:
        check_types(self)
        between(0, MAX_PAD, pad=self.pad)
        require((self.crop == "pad") == (self.pad > 0), f"pad={self.pad} does not go with crop={self.crop!r}")
        for name in ("crop_size", "first_crop_size"):
            if (value := getattr(self, name)) is not None:
                between(1, MAX_CROP, **{name: value})
                require(self.crop == "resized", f"{name}={value} does not go with crop={self.crop!r}")
        between(0, MAX_OPERATIONS, randaugment=self.randaugment)
        between(0, MAX_MAGNITUDE, randaugment_magnitude=self.randaugment_magnitude)
        self.check_crop_sizes(self.crop_size)

    def check_crop_sizes(self, last: int | None) -> None:
        """Raise ``ValueError`` if the first crops are larger than the last ones, of ``last`` pixels."""
        first = self.first_crop_size
        require(
            first is None or last is None or first <= last,
            f"first_crop_size={first} is not allowed: at most the {last} pixels that it grows to",
        )

    def check_gpu_decoding(self) -> None:
        """Raise ``ValueError`` for augmentation that is made on the CPU alone."""
        refused = "train.gpu_decoding=true is not allowed with augment"
        require(self.crop == "resized", f"{refused}.crop={self.crop!r}: only with 'resized'")
        require(self.randaugment == 0, f"{refused}.randaugment={self.randaugment}: only with 0")
