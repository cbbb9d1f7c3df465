"""The whole network as an ONNX graph, each place by the variant that a plan names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from condensenet.deploy.lowering import pointwise
from condensenet.deploy.lowering.blocks import STYLES, BlockPlace
from condensenet.deploy.lowering.folding import fold_after
from condensenet.deploy.lowering.graph import Graph
from condensenet.deploy.lowering.network import Network, Stem
from condensenet.deploy.lowering.pointwise import Place
from condensenet.deploy.onnx_file import INPUT, OUTPUT

Size = tuple[int, int]
Variants = Mapping[str, str]  # place: variant


def layer_name(block: int, layer: int) -> str:
    return f"block {block + 1}, layer {layer + 1}"


def transition_name(block: int) -> str:
    return f"transition {block + 1}"


def block_name(block: int) -> str:
    return f"block {block + 1}"


def emit(network: Network, size: Size, variants: Variants, opset: int) -> Any:
    """The ``ModelProto``: images (N, C, H, W) to logits (N, classes), N free; ``opset`` or what a variant needs."""
    graph = Graph(opset)
    x = emit_stem(graph, INPUT, network.stem)
    for number, block in enumerate(network.blocks):
        x = STYLES[variants[block_name(number)]](graph, x, block_place(network, number, size, variants))
        if block.shrink is not None:
            place = Place(conv=block.shrink, pools=block.pools)
            x = pointwise.VARIANTS[variants[transition_name(number)]](graph, x, place)
    emit_classifier(graph, x, network)
    return graph.model({INPUT: ("batch", network.in_channels, *size)}, {OUTPUT: ("batch", len(network.bias))})


def block_place(network: Network, number: int, size: Size, variants: Variants) -> BlockPlace:
    block = network.blocks[number]
    return BlockPlace(
        layers=block.layers,
        variants=[variants[layer_name(number, position)] for position in range(len(block.layers))],
        size=block_sizes(network, size)[number],
        pools=block.pools and block.shrink is None,
    )


def emit_stem(graph: Graph, x: str, stem: Stem) -> str:
    """The first convolution; with a batch norm that is folded into it, then ReLU and 3x3 max pooling."""
    weight, pads = stem.weight, [stem.padding] * 4
    attributes = {"kernel_shape": list(weight.shape[2:]), "strides": [stem.stride] * 2, "pads": pads}
    if stem.scale is None or stem.shift is None:
        return graph.node("Conv", x, graph.constant(weight), **attributes)
    weight, bias = fold_after(weight, np.zeros(len(weight)), stem.scale, stem.shift)
    x = graph.node("Relu", graph.node("Conv", x, graph.constant(weight), graph.constant(bias), **attributes))
    return graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def emit_classifier(graph: Graph, x: str, network: Network) -> None:
    """V mean(relu(s x + b)) + c over the features that the classifier reads.

    Not by a clip, (V s) mean(clip(x)) + (V b + c): the runtime adds pixel by pixel up, and a feature that hardly passes
    the ReLU would be the difference of a long sum's rounding and b. With 32x32 pixels logits were off by 1e-4.
    """
    index = network.index
    x = pointwise.shuffle(graph, x, index) if _drops(network) else x
    x = pointwise.norm_relu(graph, x, network.scale[index], network.shift[index])
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    logits = graph.node("Gemm", x, graph.constant(network.weight), graph.constant(network.bias), transB=1)
    graph.name_output(logits, OUTPUT)


def _drops(network: Network) -> bool:
    return not np.array_equal(network.index, np.arange(len(network.scale)))


def block_sizes(network: Network, size: Size) -> list[Size]:
    """Height and width in each block."""
    kernel, stem = network.stem.weight.shape[2], network.stem
    height, width = ((side + 2 * stem.padding - kernel) // stem.stride + 1 for side in size)
    if stem.pools:
        height, width = (height + 1) // 2, (width + 1) // 2  # 3x3 with stride 2, padded by 1
    sizes = []
    for block in network.blocks:
        sizes.append((height, width))
        if block.pools:
            height, width = height // 2, width // 2
    return sizes
