"""An ONNX graph in the making: nodes and constants under names that depend on nothing but the order of the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

IR_VERSION = 9  # what came with opset 18's releases; newer runtimes read it too


def needs_onnx() -> Any:
    """The module ``onnx``. Raises ``ImportError`` that says what to install."""
    try:
        return import_module("onnx")
    except ImportError as error:
        raise ImportError("lowering a model needs onnx: pip install onnx") from error


@dataclass
class Graph:
    """Equal constants are kept once. Floats become float32, integers int64."""

    _nodes: list[Any] = field(default_factory=list)
    _constants: dict[tuple[str, tuple[int, ...], bytes], Any] = field(default_factory=dict)

    def constant(self, values: Any) -> str:
        array = np.asarray(values)
        array = np.ascontiguousarray(array, dtype=np.int64 if array.dtype.kind in "iu" else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = needs_onnx().numpy_helper.from_array(array, name)
        return str(self._constants[key].name)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.nodes(kind, inputs, 1, **attributes)[0]

    def nodes(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """A node of several outputs; their names."""
        number = len(self._nodes)
        names = [f"{kind}_{number}" if outputs == 1 else f"{kind}_{number}_{output}" for output in range(outputs)]
        self._nodes.append(
            needs_onnx().helper.make_node(kind, list(inputs), names, name=f"node_{number}", **attributes)
        )
        return names

    def name_output(self, old: str, new: str) -> None:
        """Call what the last node gives ``new``."""
        (output,) = self._nodes[-1].output
        assert output == old
        self._nodes[-1].output[0] = new

    def model(
        self,
        inputs: Mapping[str, Sequence[Any]],
        outputs: Mapping[str, Sequence[Any]],
        opset: int,
        domains: Mapping[str, int] | None = None,
    ) -> Any:
        """The ``ModelProto``; a dimension is a number, or a name if it is free. ``domains``: of other operators."""
        helper, float32 = needs_onnx().helper, needs_onnx().TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "lowered",
            [helper.make_tensor_value_info(name, float32, list(shape)) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, float32, list(shape)) for name, shape in outputs.items()],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid(*each) for each in {"": opset, **(domains or {})}.items()]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="condensenet")
        model.ir_version = IR_VERSION
        return model


@dataclass
class Features:
    """The features of a dense block: what comes in and what its layers add, each a tensor (N, channels, H, W).

    They are joined only when a reader asks for the whole, and taken apart only when one asks for single channels.
    """

    graph: Graph
    _parts: list[tuple[str, int]] = field(default_factory=list)  # name, channels
    _whole: tuple[str, int] | None = None  # the first parts joined, and how many they are
    _channels: list[str] = field(default_factory=list)

    def add(self, name: str, channels: int) -> None:
        self._parts.append((name, channels))

    @property
    def count(self) -> int:
        return sum(channels for _, channels in self._parts)

    def whole(self) -> str:
        if self._whole is None or self._whole[1] < len(self._parts):
            done = 0 if self._whole is None else self._whole[1]
            names = [] if self._whole is None else [self._whole[0]]
            names += [name for name, _ in self._parts[done:]]
            self._whole = (self.graph.node("Concat", *names, axis=1) if len(names) > 1 else names[0], len(self._parts))
        return self._whole[0]

    def channels(self) -> list[str]:
        """A name (N, 1, H, W) for each channel."""
        first = 0
        for name, count in self._parts:
            if first == len(self._channels):
                self._channels += [name] if count == 1 else self._split(name, count)
            first += count
        return self._channels

    def _split(self, name: str, count: int) -> list[str]:
        return self.graph.nodes("Split", [name], count, axis=1, num_outputs=count)
