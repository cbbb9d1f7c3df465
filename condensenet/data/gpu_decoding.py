"""Training images that are decoded, cropped and flipped on the GPU, by nvJPEG through torchvision.

The crops and flips are those of the CPU: the same boxes of the same images. The pixels are not: nvJPEG rounds
otherwise, and here crops are resized in float32. So this is an option of the recipe (``train.gpu_decoding``), and no
training goes on with the other decoder.

Shapes: N images, C channels, H height, W width; crops are square, S x S.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from condensenet.config import AugmentConfig
from condensenet.data.augment import resized_crop_box
from condensenet.data.prepared import ImageSplit
from condensenet.data.resident import StreamedSplit

JPEG_SIGNATURE = b"\xff\xd8"
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)  # RuntimeErrors that no image is to blame for


class GpuDecodedSplit(StreamedSplit):
    """Encoded training images that ``device`` decodes. Raises ``ValueError`` for what it cannot do."""

    def __init__(self, source: ImageSplit, device: torch.device | str, augment: AugmentConfig) -> None:
        if torch.device(device).type != "cuda":
            raise ValueError(f"train.gpu_decoding=true is not allowed on {device}: there is no CUDA GPU")
        augment.check_gpu_decoding()
        if source.manifest.encoding != "encoded":
            raise ValueError(
                f"train.gpu_decoding=true is not allowed: the images of {source.manifest.name} are stored decoded"
            )
        check_decoder(source.manifest.channels, torch.device(device))
        super().__init__(source, device)

    def buffer(self, count: int, size: int) -> Tensor:
        """Memory of the device: uint8 (count, C, size, size)."""
        return torch.empty(count, self.manifest.channels, size, size, dtype=torch.uint8, device=self.device)


def check_decoder(channels: int, device: torch.device) -> None:
    """Raise ``ValueError`` if ``device`` cannot decode a JPEG file, as without nvJPEG: each would cost two attempts."""
    from torchvision.io import encode_jpeg  # slow to import

    jpeg = encode_jpeg(torch.zeros(channels, 16, 16, dtype=torch.uint8)).numpy()
    try:
        decode_jpegs([jpeg], channels, device)
    except DEVICE_ERRORS:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"train.gpu_decoding=true is not allowed: torchvision decodes no JPEG on {device}: "
            f"{(str(error).strip() or 'RuntimeError').splitlines()[0]}"
        ) from error


def decode_together(contents: Sequence[np.ndarray], channels: int, device: torch.device) -> list[Tensor | None]:
    """uint8 (C, H, W) on ``device`` from the content of each file; None for what it cannot decode.

    That is decided for each image alone, so it has the same pixels whichever images it is decoded with.
    """
    jpegs = [position for position, content in enumerate(contents) if bytes(content[:2]) == JPEG_SIGNATURE]
    images: list[Tensor | None] = [None] * len(contents)
    decoded: Sequence[Tensor | None]
    try:
        decoded = decode_jpegs([contents[position] for position in jpegs], channels, device)
    except DEVICE_ERRORS:
        raise
    except RuntimeError:  # for one of them; which is not told
        decoded = [_decode_alone(contents[position], channels, device) for position in jpegs]
    for position, image in zip(jpegs, decoded, strict=True):
        images[position] = image
    return images


def _decode_alone(content: np.ndarray, channels: int, device: torch.device) -> Tensor | None:
    try:
        return decode_jpegs([content], channels, device)[0]
    except DEVICE_ERRORS:
        raise
    except RuntimeError:
        return None


def decode_jpegs(contents: Sequence[np.ndarray], channels: int, device: torch.device) -> Sequence[Tensor]:
    """uint8 (C, H, W) on ``device`` of each. Raises ``RuntimeError`` if one of them cannot be decoded."""
    from torchvision.io import ImageReadMode, decode_jpeg  # slow to import

    if not contents:
        return []
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    return decode_jpeg([torch.from_numpy(content) for content in contents], mode=mode, device=device)


def crop_on_device(image_CHW: Tensor, size: int, uniforms_A4: np.ndarray) -> Tensor:
    """``training_view`` on any device: within one level of what the CPU makes of the same pixels."""
    rows, columns = image_CHW.shape[1:]
    top, left, height, width = resized_crop_box(rows, columns, uniforms_A4)
    part_1CHW = image_CHW[None, :, top : top + height, left : left + width].float()
    return interpolate(part_1CHW, (size, size), mode="bilinear", antialias=True)[0].round_().clamp_(0, 255)
