"""Ways to run a dense block, which differ in how its features are kept: one function each, in ``STYLES``.

All take the features that come in, (N, channels, H, W), and give all that the layers read or made, in their order,
2x2 average pooled if ``pools``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from condensenet.deploy.lowering import pointwise, spatial
from condensenet.deploy.lowering.blocked import Parts
from condensenet.deploy.lowering.graph import Graph
from condensenet.deploy.lowering.network import Layer
from condensenet.deploy.lowering.pointwise import Place, average

Size = tuple[int, int]
SCATTER_OPSET = 24


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockPlace:
    """A dense block where it stands: the variants of its layers, height and width, and whether pooling follows."""

    layers: Sequence[Layer]
    variants: Sequence[str]
    size: Size
    pools: bool

    @property
    def widths(self) -> list[int]:
        """The number of features before each layer and after the last."""
        first = self.layers[0].conv_1x1.in_channels
        return [int(width) for width in first + np.cumsum([0, *(len(layer.conv_3x3.weight) for layer in self.layers)])]


Style = Callable[[Graph, str, BlockPlace], str]


def emit_layer(graph: Graph, features: str, layer: Layer, variant: str, size: Size) -> str:
    """The new features of a dense layer; ``variant`` is "<of the 1x1> <of the 3x3>"."""
    first, second = variant.split()
    place = Place(conv=layer.conv_1x1, scale=layer.conv_3x3.scale, shift=layer.conv_3x3.shift)
    x = pointwise.VARIANTS[first](graph, features, place)
    return spatial.VARIANTS[second](graph, x, layer.conv_3x3, size)


def joined(graph: Graph, x: str, block: BlockPlace) -> str:
    """What a layer makes is joined to its features by Concat, which copies all of them each time."""
    for layer, variant in zip(block.layers, block.variants, strict=True):
        x = graph.node("Concat", x, emit_layer(graph, x, layer, variant, block.size), axis=1)
    return average(graph, x) if block.pools else x


def in_place(graph: Graph, x: str, block: BlockPlace) -> str:
    """Room for all features from the start; what a layer makes is put into it by TensorScatter.

    ONNX Runtime writes into the same memory, since nobody reads the features as they were before. Room is made by
    repeating the first feature, which is the cheapest way to get a larger tensor. A 1x1 convolution that is "dense"
    becomes "gathered": the room has more channels than it reads. TensorScatter is of opset 24.
    """
    graph.raise_opset(SCATTER_OPSET)
    widths = block.widths
    room = np.concatenate([np.arange(widths[0]), np.zeros(widths[-1] - widths[0], np.int64)])
    firsts = _by_image(graph, x, widths[:-1])
    x = graph.node("Gather", x, graph.constant(room), axis=1)
    for layer, variant, first in zip(block.layers, block.variants, firsts, strict=True):
        new = emit_layer(graph, x, layer, variant.replace("dense", "gathered"), block.size)
        x = graph.node("TensorScatter", x, new, first, axis=1)
    return average(graph, x) if block.pools else x


def _by_image(graph: Graph, x: str, values: list[int]) -> list[str]:
    """A tensor (N,) of each value, where N is the number of images in ``x``, known when the graph runs only."""
    images = graph.node("Shape", x, start=0, end=1)
    shape = graph.node("Concat", graph.constant(np.array([len(values)])), images, axis=0)
    table = graph.node("Expand", graph.constant(np.array(values)[:, None]), shape)
    flat = graph.node("Reshape", table, graph.constant(np.array([-1])))
    if len(values) == 1:
        return [flat]
    return graph.nodes("Split", [flat], len(values), axis=0, num_outputs=len(values))


def blocked(graph: Graph, x: str, block: BlockPlace) -> str:
    """Features in parts of 16 channels, never joined, in operators that keep ONNX Runtime's blocked layout."""
    parts = Parts(graph, x, block.widths[0])
    for layer in block.layers:
        parts.add_layer(layer)
    return parts.whole(block.pools)


STYLES: dict[str, Style] = {"joined": joined, "in place": in_place, "blocked": blocked}


def choices(layers: Sequence[Layer]) -> list[str]:
    """The styles that run these layers exactly."""
    alike = all(pointwise.reads_alike(layer.conv_1x1) for layer in layers)
    return [style for style in STYLES if style != "blocked" or alike]
