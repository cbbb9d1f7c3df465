"""A builder of ONNX graphs, whose names of nodes and constants depend only on the order of the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from condensenet.deploy.onnx_file import import_optional
from condensenet.deploy.opset import DEFAULT_OPSET

IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13}  # by opset: that of the same release
BLOCK = 16  # channels of a block in ONNX Runtime's fast layout with AVX-512; 8 with AVX2


@dataclass
class Graph:
    """Equal constants are stored once. Floats become float32, integers int64."""

    opset: int = DEFAULT_OPSET
    _nodes: list[Any] = field(default_factory=list)
    _constants: dict[tuple[str, tuple[int, ...], bytes], Any] = field(default_factory=dict)

    def constant(self, values: Any) -> str:
        array = np.asarray(values)
        array = np.ascontiguousarray(array, dtype=np.int64 if array.dtype.kind in "iu" else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = import_optional("onnx").numpy_helper.from_array(array, name)
        return str(self._constants[key].name)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.nodes(kind, inputs, 1, **attributes)[0]

    def nodes(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node of several outputs and return their names."""
        number = len(self._nodes)
        names = [f"{kind}_{number}" if outputs == 1 else f"{kind}_{number}_{output}" for output in range(outputs)]
        node = import_optional("onnx").helper.make_node(kind, list(inputs), names, name=f"node_{number}", **attributes)
        self._nodes.append(node)
        return names

    def raise_opset(self, opset: int) -> None:
        """Use ``opset`` at least, because a node needs it."""
        self.opset = max(self.opset, opset)

    def name_output(self, old: str, new: str) -> None:
        """Rename ``old``, the output of the last node."""
        (output,) = self._nodes[-1].output
        assert output == old
        self._nodes[-1].output[0] = new

    def model(
        self,
        inputs: Mapping[str, Sequence[Any]],
        outputs: Mapping[str, Sequence[Any]],
        domains: Mapping[str, int] | None = None,
    ) -> Any:
        """The ``ModelProto``. A free dimension is given as a name; ``domains`` are those of custom operators."""
        helper, float32 = import_optional("onnx").helper, import_optional("onnx").TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "lowered",
            [helper.make_tensor_value_info(name, float32, list(shape)) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, float32, list(shape)) for name, shape in outputs.items()],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid(*item) for item in {"": self.opset, **(domains or {})}.items()]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="condensenet")
        model.ir_version = IR_VERSIONS[self.opset]
        return model
