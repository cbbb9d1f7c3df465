"""MobileNetV1 as an ONNX file, written with NumPy alone: the reference model on machines without torch and onnx.

It is the network of ``mobilenet_torch.mobilenet_v1`` (a test compares the logits) with batch norms folded. Its weights
are random, because latency does not depend on them. So the reference model is part of the code and fits any input size,
and only the model to be timed has to be copied to a device. The file is encoded by hand, as onnx.proto prescribes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from condensenet.files import write_atomically

MOBILENET = "mobilenet_v1"
OPSET, IR_VERSION = 18, 10
# (output channels, stride) of the depthwise separable layers: MobileNets, arXiv 1704.04861, table 1.
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
STEM, STEM_STRIDE = 32, 2
FLOAT, INT64 = 1, 7  # TensorProto.DataType
VARINT, LENGTH_DELIMITED = 0, 2  # wire types
SEED = 0

Conv = tuple[tuple[int, int, int, int], int, int]  # weight shape (O, I / groups, h, w), stride, groups


def convolutions(in_channels: int) -> list[Conv]:
    """The convolutions in order: the stem, then 3x3 depthwise and 1x1 pointwise alternately."""
    convs: list[Conv] = [((STEM, in_channels, 3, 3), STEM_STRIDE, 1)]
    width = STEM
    for out_channels, stride in LAYERS:
        convs += [((width, 1, 3, 3), stride, width), ((out_channels, width, 1, 1), 1, 1)]
        width = out_channels
    return convs


def random_weights(in_channels: int, classes: int) -> list[np.ndarray]:
    """Weight and bias of every convolution, then of the classifier. They are scaled to keep activations in float32's
    normal range, since denormal numbers would slow the processor down."""
    random = np.random.default_rng(SEED)
    shapes: list[tuple[int, ...]] = [shape for shape, _, _ in convolutions(in_channels)]
    shapes.append((classes, LAYERS[-1][0]))
    arrays = []
    for shape in shapes:
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        arrays += [random.standard_normal(shape, dtype=np.float32) * scale, np.zeros(shape[0], np.float32)]
    return arrays


def write_mobilenet_v1(
    path: str | Path, image_shape: Sequence[int], classes: int, *, weights: Sequence[np.ndarray] | None = None
) -> Path:
    """Write MobileNetV1 1.0 for images of ``image_shape`` (channels, height, width) and return ``path``.

    The file takes ``image`` (batch, channels, height, width), float32, and gives ``logits`` (batch, classes).
    ``weights`` are weight and bias of every convolution, then of the classifier; by default they are random.
    """
    channels = image_shape[0]
    arrays = random_weights(channels, classes) if weights is None else list(weights)
    nodes = b"".join(_embed(1, node) for node in _nodes(channels))
    names = [f"{kind}{number}" for number in range(len(arrays) // 2) for kind in ("w", "b")]
    tensors = [*zip(names, arrays, strict=True), ("axes", np.array([2, 3], np.int64))]
    graph = (
        nodes
        + _text(2, MOBILENET)
        + b"".join(_embed(5, _tensor(name, array)) for name, array in tensors)
        + _embed(11, _value("image", ("batch", *image_shape)))
        + _embed(12, _value("logits", ("batch", classes)))
    )
    opset = _text(1, "") + _number(2, OPSET)
    metadata = _embed(14, _text(1, "model") + _text(2, MOBILENET)) + _embed(
        14, _text(1, "weights") + _text(2, "random")
    )
    model = _number(1, IR_VERSION) + _text(2, "condensenet") + _embed(7, graph) + _embed(8, opset)
    write_atomically(Path(path), model + (metadata if weights is None else b""))
    return Path(path)


def _nodes(in_channels: int) -> Iterator[bytes]:
    """Convolutions, each with a ReLU, then the mean over all pixels and the classifier."""
    x = "image"
    convs = convolutions(in_channels)
    for number, ((_, _, height, width), stride, groups) in enumerate(convs):
        yield _node(
            "Conv",
            [x, f"w{number}", f"b{number}"],
            f"conv{number}",
            kernel_shape=[height, width],
            pads=[height // 2, width // 2] * 2,
            strides=[stride, stride],
            group=groups,
        )
        yield _node("Relu", [f"conv{number}"], f"relu{number}")
        x = f"relu{number}"
    yield _node("ReduceMean", [x, "axes"], "mean", keepdims=1)
    yield _node("Flatten", ["mean"], "features")
    yield _node("Gemm", ["features", f"w{len(convs)}", f"b{len(convs)}"], "logits", transB=1)


# Messages of onnx.proto, by field number.


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: int | list[int]) -> bytes:
    encoded = b"".join(_embed(5, _attribute(name, value)) for name, value in attributes.items())
    return b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, operator) + encoded


def _attribute(name: str, value: int | list[int]) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, 2)  # INT
    return _text(1, name) + b"".join(_number(8, item) for item in value) + _number(20, 7)  # INTS


def _tensor(name: str, array: np.ndarray) -> bytes:
    kind = {"float32": FLOAT, "int64": INT64}[array.dtype.name]
    raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return b"".join(_number(1, size) for size in array.shape) + _number(2, kind) + _text(8, name) + _embed(9, raw)


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    sizes = (_text(2, size) if isinstance(size, str) else _number(1, size) for size in shape)
    tensor = _number(1, FLOAT) + _embed(2, b"".join(_embed(1, size) for size in sizes))
    return _text(1, name) + _embed(2, _embed(1, tensor))


# Protocol buffers: a field is its key (field number and wire type), then its content.


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | VARINT) + _varint(value)


def _embed(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | LENGTH_DELIMITED) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _embed(field, content.encode())
