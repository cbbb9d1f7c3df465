"""Post-training static quantization to int8 by ONNX Runtime: weights per channel, activations by calibration.

Only convolutions and matrix products are quantized: with other operators too, files were slower and less accurate
(docs/LOG.md). ``onnx`` and ``onnxruntime`` are imported only when needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.deploy.onnx_file import INPUT, import_optional, write_onnx
from condensenet.temporary import temporary_folder
from condensenet.text import message_of

OPERATORS = ("Conv", "Gemm", "MatMul")
PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # our files need no preprocessing: no warning about it


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The file at ``path``: so many ``operators`` compute in int8, calibrated on so many ``images``."""

    path: Path
    images: int
    operators: int


def write_int8(
    path_fp32: str | Path,
    path_int8: str | Path,
    batches: Iterable[np.ndarray],
    *,
    metadata: Mapping[str, str] | None = None,
) -> Quantized:
    """Quantize the file at ``path_fp32``, whose only input is ``image``, with activation ranges from ``batches``.

    ``batches`` are training images (N, C, H, W), float32, normalised as for the network; a hundred images are plenty.
    The new file has only standard operators (QuantizeLinear and DequantizeLinear around each quantized one, which the
    runtime fuses). Its input and output stay float32, and it is written atomically. It keeps the metadata of the old
    file but its form and plan, overridden by ``metadata``.

    Raises ``ValueError`` for a file that cannot be quantized, and for batches that do not fit it, are empty or have
    values that are not finite; ``ImportError`` without onnx and onnxruntime.
    """
    onnx, quantization = (import_optional(name, "write_int8") for name in ("onnx", "onnxruntime.quantization"))
    proto = _read(onnx, Path(path_fp32))
    calibration = _CalibrationReader(batches, _image_shape(proto))
    with temporary_folder("condensenet-int8-") as folder:
        prepared, quantized = folder / "fp32.onnx", folder / "int8.onnx"
        old_metadata = {entry.key: entry.value for entry in proto.metadata_props if not entry.key.startswith("plan")}
        onnx.helper.set_model_props(proto, PREPROCESSED)
        onnx.save(proto, prepared)
        _quantize(quantization, prepared, quantized, calibration, path_fp32)
        written = onnx.load(quantized)
    written.producer_name, written.producer_version = proto.producer_name, proto.producer_version
    path = write_onnx(written, path_int8, {**old_metadata, "form": "int8", **(metadata or {})})
    return Quantized(path=path, images=calibration.images, operators=_count(written))


def _quantize(quantization: Any, fp32: Path, int8: Path, calibration: _CalibrationReader, name: str | Path) -> None:
    try:
        quantization.quantize_static(
            fp32,
            int8,
            calibration,
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(OPERATORS),
        )
    except ValueError:  # from the calibration reader
        raise
    except Exception as error:  # such as the quantizer's own assertion when activations are not finite
        why = message_of(error)
        raise ValueError(f"{name} cannot be quantized, perhaps its values are not finite: {why}") from error


class _CalibrationReader:
    """The batches as ONNX Runtime's quantizer asks for them, each checked before it is used."""

    def __init__(self, batches: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
        self.images, self.shape = 0, shape
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        if batch is None:
            if self.images == 0:
                raise ValueError("there is no calibration image: at least one is needed")
            return None
        if batch.dtype != np.float32 or batch.shape[1:] != self.shape or len(batch) == 0:
            raise ValueError(f"a batch of {batch.dtype} {batch.shape} is not float32 (N, {str(self.shape)[1:]}")
        if not np.isfinite(batch).all():
            raise ValueError("a calibration image has values that are not finite")
        self.images += len(batch)
        return {INPUT: batch}


def _read(onnx: Any, path: Path) -> Any:
    try:
        proto = onnx.load(path)
    except Exception as error:  # missing, or not a model: protobuf raises its own class
        raise ValueError(f"{path} cannot be read as ONNX: {message_of(error)}") from error
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in proto.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise ValueError(f"{path} cannot be quantized: {', '.join(foreign)} is not a standard operator")
    return proto


def _image_shape(proto: Any) -> tuple[int, ...]:
    """Channels, height and width of the input; raises ``ValueError`` if it is not ``image`` alone."""
    names = [value.name for value in proto.graph.input]
    if names != [INPUT]:
        raise ValueError(f"inputs {', '.join(names)} are not allowed: the file must take image alone")
    return tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])


def _count(proto: Any) -> int:
    """The number of operators that read a dequantized activation."""
    dequantized = {name for node in proto.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return sum(node.op_type in OPERATORS and node.input[0] in dequantized for node in proto.graph.node)
