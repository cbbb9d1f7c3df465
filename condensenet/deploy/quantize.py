"""int8 files by ONNX Runtime's own static quantization: weights by channel, activations by calibration.

Convolutions and matrix products alone become int8: what else can be quantized took longer and lost more (docs/LOG.md).
``onnx`` and ``onnxruntime`` are imported only when a file is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.deploy.onnx_file import import_optional
from condensenet.files import write_atomically

OPERATORS = ("Conv", "Gemm", "MatMul")
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else the tool advises it; our files need none


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was written: ``operators`` that compute in int8 now, ranges taken from ``images``."""

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
    """Quantize the file at ``path_fp32``, whose one input is ``image``, by the ranges seen on ``batches``.

    ``batches`` are training images (N, C, H, W), float32, as the network takes them; a hundred images are plenty.
    The new file is of standard operators (QuantizeLinear and DequantizeLinear around each, which the runtime fuses),
    takes and gives float32 as the old one does and appears whole or not at all. It keeps the old one's metadata;
    ``metadata`` wins over them.

    Raises ``ValueError`` for a file that cannot be quantized and for batches that do not fit it, hold what is not
    finite, or are none; ``ImportError`` without onnx and onnxruntime.
    """
    onnx, tool = import_optional("onnx", "write_int8"), import_optional("onnxruntime.quantization", "write_int8")
    proto = _read(onnx, Path(path_fp32))
    reader = _Reader(batches, _image_shape(proto))
    with tempfile.TemporaryDirectory(prefix="condensenet-int8-") as folder:
        prepared, quantized = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        given = {entry.key: entry.value for entry in proto.metadata_props}
        onnx.helper.set_model_props(proto, PREPARED)
        onnx.save(proto, prepared)
        _quantize(tool, prepared, quantized, reader, path_fp32)
        written = onnx.load(quantized)
    written.producer_name, written.producer_version = proto.producer_name, proto.producer_version
    onnx.helper.set_model_props(written, {**given, **(metadata or {})})
    onnx.checker.check_model(written, full_check=True)
    write_atomically(Path(path_int8), written.SerializeToString())
    return Quantized(path=Path(path_int8), images=reader.images, operators=_count(written))


def _quantize(tool: Any, prepared: Path, quantized: Path, reader: _Reader, name: str | Path) -> None:
    try:
        tool.quantize_static(
            prepared,
            quantized,
            reader,
            quant_format=tool.QuantFormat.QDQ,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(OPERATORS),
        )
    except ValueError:  # of the reader
        raise
    except Exception as error:  # an assertion of the tool's own, for one, where a network's values are not finite
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} cannot be quantized, perhaps its values are not finite: {why}") from error


class _Reader:
    """The batches as the tool asks for them, each checked before it is used."""

    def __init__(self, batches: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
        self.images, self.shape = 0, shape
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        if batch is None:
            if self.images == 0:
                raise ValueError("there is no image to calibrate with: at least one is needed")
            return None
        if batch.dtype != np.float32 or batch.shape[1:] != self.shape or len(batch) == 0:
            raise ValueError(f"a batch of {batch.dtype} {batch.shape} is not float32 (N, {str(self.shape)[1:]}")
        if not np.isfinite(batch).all():
            raise ValueError("an image to calibrate with holds what is not finite")
        self.images += len(batch)
        return {"image": batch}


def _read(onnx: Any, path: Path) -> Any:
    try:
        proto = onnx.load(path)
    except Exception as error:  # missing, or not a model: protobuf has an exception class of its own
        raise ValueError(f"{path} cannot be read as ONNX: {' '.join(str(error).split())}") from error
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in proto.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise ValueError(f"{path} cannot be quantized: {', '.join(foreign)} is no standard operator")
    return proto


def _image_shape(proto: Any) -> tuple[int, ...]:
    """Channels, height and width of the input; raises ``ValueError`` if it is not ``image`` alone."""
    names = [value.name for value in proto.graph.input]
    if names != ["image"]:
        raise ValueError(f"inputs {', '.join(names)} are not allowed: the file must take image alone")
    return tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])


def _count(proto: Any) -> int:
    """Operators that read a dequantized weight or activation."""
    dequantized = {name for node in proto.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return sum(node.op_type in OPERATORS and node.input[0] in dequantized for node in proto.graph.node)
