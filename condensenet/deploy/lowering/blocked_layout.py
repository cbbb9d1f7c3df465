"""A dense block for ONNX Runtime's blocked layout, which keeps 16 channels of a pixel together.

Convolutions whose channels are multiples of 16 stay in that layout, with no reordering between them. So the features
are kept in parts of 16 lanes, padded with zeros. Nothing is gathered, shuffled or concatenated, and every batch norm
and ReLU is a depthwise 1x1 convolution with a ReLU, which the runtime fuses. The price is dense arithmetic: worth it
for large images and few channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from condensenet.deploy.lowering.graph_builder import BLOCK, Graph
from condensenet.deploy.lowering.network import Array, Layer, Spatial
from condensenet.deploy.lowering.pointwise import average_pool, densify


@dataclass
class Part:
    """A tensor (N, lanes, H, W); ``features[lane]`` is the feature in that lane, -1 for zeros."""

    name: str
    features: list[int]


@dataclass
class Parts:
    """The features of a dense block, in parts."""

    graph: Graph
    first: str
    channels: int
    _parts: list[Part] = field(init=False)
    _free: int = 0  # lanes at the end of the last part

    def __post_init__(self) -> None:
        self._parts = [Part(self.first, list(range(self.channels)))]

    def add_layer(self, layer: Layer) -> None:
        """Compute ``layer`` on the features so far and append its new ones, to the last part if they fit into it."""
        outputs = len(layer.conv_3x3.weight)
        fits = outputs <= self._free
        lanes = BLOCK if fits else -(-outputs // BLOCK) * BLOCK
        skipped = BLOCK - self._free if fits else 0
        new = _spatial(self.graph, self._pointwise(layer), layer.conv_3x3, lanes, skipped)
        features = [-1] * lanes
        features[skipped : skipped + outputs] = range(self.channels, self.channels + outputs)
        self.channels += outputs
        if fits:
            last = self._parts.pop()
            new = self.graph.node("Add", last.name, new)
            features = [max(pair) for pair in zip(last.features, features, strict=True)]
        self._parts.append(Part(new, features))
        self._free = lanes - skipped - outputs

    def concatenate(self, pools: bool) -> str:
        """All features in order, after 2x2 average pooling if ``pools``."""
        names = [average_pool(self.graph, part.name) if pools else part.name for part in self._parts]
        x = self.graph.node("Concat", *names, axis=1)
        lanes = [feature for part in self._parts for feature in part.features]
        order = np.array([lanes.index(feature) for feature in range(self.channels)])
        return x if len(lanes) == self.channels else self.graph.node("Gather", x, self.graph.constant(order), axis=1)

    def _pointwise(self, layer: Layer) -> str:
        """relu(s2 y + b2) with y = sum over the parts of W_part relu(s x_part + b), in shuffled order.

        ONNX Runtime adds each product to the sum in place. Outputs are repeated once per output of a 3x3 group.
        """
        scale, shift, weight_OI = densify(layer.conv_1x1)
        weight_OI = weight_OI[layer.conv_1x1.order] * layer.conv_3x3.scale[:, None]
        copies = _copies(layer.conv_3x3)
        total = ""
        for part in self._parts:
            x = _norm_relu(self.graph, part.name, _select(scale, part.features), _select(shift, part.features))
            weight = np.tile(_select(weight_OI, part.features), (copies, 1))[:, :, None, None]
            bias = [] if total else [self.graph.constant(np.tile(layer.conv_3x3.shift, copies))]
            x = self.graph.node("Conv", x, self.graph.constant(weight), *bias, kernel_shape=[1, 1])
            total = self.graph.node("Add", total, x) if total else x
        return self.graph.node("Relu", total)


def _norm_relu(graph: Graph, x: str, scale: Array, shift: Array) -> str:
    weight = graph.constant(scale.reshape(-1, 1, 1, 1))
    x = graph.node("Conv", x, weight, graph.constant(shift), group=len(scale), kernel_shape=[1, 1])
    return graph.node("Relu", x)


def _spatial(graph: Graph, x: str, conv: Spatial, lanes: int, skipped: int) -> str:
    """The 3x3 group convolution as a depthwise one, then a 1x1 convolution of ones that sums each group.

    The depthwise one gets one copy of the inputs per output of a group: copy c, input i of group g has the weights
    W[g * outputs + c, i], and output g * outputs + c is the sum over i. Output o goes to lane ``skipped`` + o.
    """
    outputs, inputs = conv.weight.shape[:2]
    copies, channels = _copies(conv), conv.groups * inputs
    weight_GCI = conv.weight.reshape(conv.groups, copies, inputs, 3, 3)
    weight = graph.constant(weight_GCI.swapaxes(0, 1).reshape(copies * channels, 1, 3, 3))
    x = graph.node("Conv", x, weight, group=copies * channels, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    ones = np.zeros((lanes, copies, conv.groups, inputs))
    for output in range(outputs):
        ones[skipped + output, output % copies, output // copies] = 1
    return graph.node("Conv", x, graph.constant(ones.reshape(lanes, -1, 1, 1)), kernel_shape=[1, 1])


def _copies(conv: Spatial) -> int:
    return len(conv.weight) // conv.groups


def _select(values: Array, features: list[int]) -> Array:
    """values[..., features], 0 where a feature is -1 or, having been added later, beyond the end."""
    kept = np.array([feature if feature < values.shape[-1] else -1 for feature in features])
    return np.where(kept >= 0, values[..., kept], 0.0)
