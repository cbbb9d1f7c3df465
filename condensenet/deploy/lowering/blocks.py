"""Ways to compute a dense block, which differ in how they store its features: one function each, in ``VARIANTS``.

All take the input features (N, channels, H, W) and return them followed by each layer's new features, in order, after
2x2 average pooling if ``pools``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from condensenet.deploy.lowering import pointwise, spatial
from condensenet.deploy.lowering.blocked_layout import Parts
from condensenet.deploy.lowering.graph_builder import Graph
from condensenet.deploy.lowering.network import Layer, Size
from condensenet.deploy.lowering.pointwise import PointwiseOp, average_pool

SCATTER_OPSET = 24


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockOp:
    """A dense block to lower: its layers with their variants, height and width, and whether pooling follows."""

    layers: Sequence[Layer]
    variants: Sequence[str]
    size: Size
    pools: bool

    @property
    def widths(self) -> list[int]:
        """The number of features before each layer and after the last."""
        first = self.layers[0].conv_1x1.in_channels
        return [int(width) for width in first + np.cumsum([0, *(len(layer.conv_3x3.weight) for layer in self.layers)])]


Variant = Callable[[Graph, str, BlockOp], str]


def lower_layer(graph: Graph, features: str, layer: Layer, variant: str, size: Size) -> str:
    """The new features of a dense layer; ``variant`` is "<of the 1x1> <of the 3x3>"."""
    variant_1x1, variant_3x3 = variant.split()
    op = PointwiseOp(conv=layer.conv_1x1, scale=layer.conv_3x3.scale, shift=layer.conv_3x3.shift)
    x = pointwise.VARIANTS[variant_1x1](graph, features, op)
    return spatial.VARIANTS[variant_3x3](graph, x, layer.conv_3x3, size)


def joined(graph: Graph, x: str, block: BlockOp) -> str:
    """New features are appended by Concat, which copies all of them for every layer."""
    for layer, variant in zip(block.layers, block.variants, strict=True):
        x = graph.node("Concat", x, lower_layer(graph, x, layer, variant, block.size), axis=1)
    return average_pool(graph, x) if block.pools else x


def in_place(graph: Graph, x: str, block: BlockOp) -> str:
    """All features are allocated at the start; TensorScatter (opset 24) writes each layer's new ones.

    ONNX Runtime updates the buffer in place, since nothing reads the earlier state again. The buffer is made by
    repeating the first feature, the cheapest way to get a larger tensor. A dense 1x1 convolution becomes one that
    gathers, because the buffer has more channels than it reads.
    """
    graph.raise_opset(SCATTER_OPSET)
    widths = block.widths
    buffer = np.concatenate([np.arange(widths[0]), np.zeros(widths[-1] - widths[0], np.int64)])
    offsets = _by_image(graph, x, widths[:-1])
    x = graph.node("Gather", x, graph.constant(buffer), axis=1)
    for layer, variant, offset in zip(block.layers, block.variants, offsets, strict=True):
        new = lower_layer(graph, x, layer, _reading_a_part(variant), block.size)
        x = graph.node("TensorScatter", x, new, offset, axis=1)
    return average_pool(graph, x) if block.pools else x


def _reading_a_part(variant: str) -> str:
    variant_1x1, variant_3x3 = variant.split()
    gathering = {"dense": "gathered", "dense_normed": "normed"}
    return f"{gathering.get(variant_1x1, variant_1x1)} {variant_3x3}"


def _by_image(graph: Graph, x: str, values: list[int]) -> list[str]:
    """For each value a tensor (N,) of it, N being the number of images in ``x``, which varies between runs."""
    images = graph.node("Shape", x, start=0, end=1)
    shape = graph.node("Concat", graph.constant(np.array([len(values)])), images, axis=0)
    table = graph.node("Expand", graph.constant(np.array(values)[:, None]), shape)
    flat = graph.node("Reshape", table, graph.constant(np.array([-1])))
    if len(values) == 1:
        return [flat]
    return graph.nodes("Split", [flat], len(values), axis=0, num_outputs=len(values))


def blocked(graph: Graph, x: str, block: BlockOp) -> str:
    """Features stay in parts of 16 channels, in operators that keep ONNX Runtime's blocked layout."""
    parts = Parts(graph, x, block.widths[0])
    for layer in block.layers:
        parts.add_layer(layer)
    return parts.concatenate(block.pools)


VARIANTS: dict[str, Variant] = {"joined": joined, "in place": in_place, "blocked": blocked}


def valid_variants(layers: Sequence[Layer]) -> list[str]:
    """The variants that compute these layers exactly."""
    shared = all(pointwise.has_shared_norm(layer.conv_1x1) for layer in layers)
    return [variant for variant in VARIANTS if variant != "blocked" or shared]
