"""An ONNX file as a function from images to logits, with what its metadata say. It runs in ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from condensenet.deploy.onnx_file import INPUT, OUTPUT
from condensenet.deploy.runtime import open_session
from condensenet.preprocessing import Preprocessing


class OnnxModel:
    """The network in the file at ``path``: call it with float32 images (N, C, H, W) for float32 logits (N, classes).

    ``metadata`` are the properties of the file; ``preprocessing`` is made from them, None if they lack it. Raises
    ``ValueError`` if the file cannot be loaded or is not one of this package's, ``ImportError`` without onnxruntime.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, threads)
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        if inputs != [INPUT] or OUTPUT not in outputs:
            raise ValueError(f"{path} is not an ONNX file of this package: it takes {', '.join(inputs)}, not {INPUT}")
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        try:
            self.preprocessing = Preprocessing.from_metadata(self.metadata)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        return tuple(self._session.get_inputs()[0].shape[1:])

    @property
    def form(self) -> str:
        """lowered, plain, native or int8, if the file says so."""
        return self.metadata.get("form", "unknown")

    def __call__(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run([OUTPUT], {INPUT: images.numpy()})[0])
