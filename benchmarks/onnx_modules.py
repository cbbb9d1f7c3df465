"""An ONNX file as a PyTorch module, for runtimes that read PyTorch alone: the few operators that our files use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Node:
    """One operator: its tensors, attributes, and those inputs that are constant integers, as lists."""

    kind: str
    inputs: Sequence[str]
    output: str
    attributes: dict[str, Any]
    integers: dict[int, list[int]]

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


class OnnxModule(nn.Module):
    """Computes the only output of the file from its only input. Raises ``ValueError`` for another operator."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        self.ends = graph.input[0].name, graph.output[0].name
        self.buffer_names = {tensor.name: f"constant_{number}" for number, tensor in enumerate(graph.initializer)}
        integers = {}
        for tensor in graph.initializer:
            array = onnx.numpy_helper.to_array(tensor).copy()
            self.register_buffer(self.buffer_names[tensor.name], torch.from_numpy(array))
            if array.dtype.kind == "i":
                integers[tensor.name] = array.ravel().tolist()
        self.nodes = [_read(node, integers) for node in graph.node]
        if unknown := {node.kind for node in self.nodes} - OPERATORS.keys():
            raise ValueError(f"no PyTorch counterpart of {', '.join(sorted(unknown))}")

    def forward(self, image: Tensor) -> Tensor:
        values = {self.ends[0]: image}
        for node in self.nodes:
            inputs = [
                values[name] if name in values else getattr(self, self.buffer_names[name]) for name in node.inputs
            ]
            values[node.output] = OPERATORS[node.kind](node, *inputs)
        return values[self.ends[1]]


def _read(node: Any, integers: dict[str, list[int]]) -> Node:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    own = {place: integers[name] for place, name in enumerate(node.input) if name in integers}
    return Node(node.op_type, list(node.input), node.output[0], attributes, own)


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    padding = node.get("pads", [0] * 4)[:2]
    return F.conv2d(x, weight, bias, node.get("strides", 1), padding, groups=node.get("group", 1))


def _transposed(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    padding = node.get("pads", [0] * 4)[:2]
    return F.conv_transpose2d(x, weight, bias, node.get("strides", 1), padding, groups=node.get("group", 1))


def _norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=node.get("epsilon", 1e-5))


def _mean(node: Node, x: Tensor, *axes: Tensor) -> Tensor:
    return x.mean(node.integers[1] if axes else node.get("axes"), keepdim=bool(node.get("keepdims", 1)))


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[place] if size == 0 else size for place, size in enumerate(node.integers[1])])


def _gemm(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight if node.get("transB") else weight.T, bias)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "AveragePool": lambda node, x: F.avg_pool2d(x, node.get("kernel_shape"), node.get("strides")),
    "BatchNormalization": _norm,
    "Concat": lambda node, *inputs: torch.cat(inputs, node.get("axis")),
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Flatten": lambda node, x: x.flatten(node.get("axis", 1)),
    "Gather": lambda node, x, index: torch.index_select(x, node.get("axis", 0), index),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, x: x.mean((2, 3), keepdim=True),
    "Max": lambda node, x, y: torch.maximum(x, y),
    "Min": lambda node, x, y: torch.minimum(x, y),
    "ReduceMean": _mean,
    "Relu": lambda node, x: F.relu(x),
    "Reshape": _reshape,
    "Transpose": lambda node, x: x.permute(node.get("perm")),
}
