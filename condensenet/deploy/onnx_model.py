"""An ONNX file as a function from images to logits, with what its metadata say. It runs in ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condensenet.deploy.onnx_file import INPUT, OUTPUT
from condensenet.deploy.runtime import open_session
from condensenet.preprocessing import Preprocessing
from condensenet.text import escaped, message_of, shown

FLOAT32 = "tensor(float)"  # in ONNX Runtime's words


class OnnxModel:
    """The network in the file at ``path``: call it with float32 images (N, C, H, W) for float32 logits (N, classes).

    ``metadata`` are the properties of the file; ``preprocessing`` is made from them, None if they lack it. Raises
    ``ValueError`` if the file cannot be loaded or is not one of this package's, ``ImportError`` without onnxruntime.
    A call raises ``ValueError`` for images that the network does not take, and if it does not give such logits.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, threads)
        _check_values(self.path, self._session)
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        try:
            self.preprocessing = Preprocessing.from_metadata(self.metadata)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        made = self.preprocessing and (self.preprocessing.channels, *[self.preprocessing.image_size] * 2)
        if made and made != self.image_shape:
            takes = shown(self.image_shape)
            raise ValueError(f"{path}: its network takes images of shape {takes}, its preprocessing makes {made}")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        return tuple(self._session.get_inputs()[0].shape[1:])

    @property
    def form(self) -> str:
        """lowered, plain, native or int8, if the file says so."""
        return self.metadata.get("form", "unknown")

    def __call__(self, images: Tensor) -> Tensor:
        batch = self._session.get_inputs()[0].shape[0]
        count = batch if type(batch) is int else len(images)
        if images.dtype != torch.float32 or images.shape != (count, *self.image_shape):
            raise ValueError(
                f"{self.path} takes float32 images of shape {shown((batch, *self.image_shape))}, "
                f"not {images.dtype} of {tuple(images.shape)}"
            )
        logits = torch.from_numpy(self._run(images.detach().cpu().numpy()))
        if logits.dtype != torch.float32 or logits.ndim != 2 or len(logits) != len(images) or not logits.shape[1]:
            raise ValueError(
                f"{self.path} gives {logits.dtype} {tuple(logits.shape)} for {len(images)} images, not float32 logits "
                "(images, classes)"
            )
        return logits

    def _run(self, images: np.ndarray) -> np.ndarray:
        try:
            logits = self._session.run([OUTPUT], {INPUT: images})[0]
        except Exception as error:  # the runtime raises a class of its own for each reason
            why = message_of(error)
            raise ValueError(f"{self.path} does not run on images of shape {images.shape}: {why}") from None
        if not isinstance(logits, np.ndarray) or logits.dtype.kind not in "fiub":
            raise ValueError(f"{self.path} gives {OUTPUT} that are no numbers")
        return logits


def _check_values(path: Path, session: Any) -> None:
    """Raise ``ValueError`` unless the file takes one batch of float32 images of fixed shape and gives logits."""
    inputs, outputs = session.get_inputs(), [value.name for value in session.get_outputs()]
    other = f"{path} is not an ONNX file of this package: it takes"
    if [value.name for value in inputs] != [INPUT] or OUTPUT not in outputs:
        takes, gives = (escaped(", ".join(names)) for names in ([value.name for value in inputs], outputs))
        raise ValueError(f"{other} {takes} and gives {gives}, not {INPUT} and {OUTPUT}")
    kind, shape = inputs[0].type, inputs[0].shape
    if kind != FLOAT32 or len(shape) != 4 or not all(type(side) is int for side in shape[1:]):
        raise ValueError(f"{other} {kind} {shown(shape)}, not {FLOAT32} (batch, channels, height, width)")
