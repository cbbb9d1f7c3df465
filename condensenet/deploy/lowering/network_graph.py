"""The whole network as an ONNX graph, each workload by the variant that a plan names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from condensenet.deploy.lowering import blocks, pointwise
from condensenet.deploy.lowering.blocks import BlockOp
from condensenet.deploy.lowering.folding import fold_after
from condensenet.deploy.lowering.graph_builder import Graph
from condensenet.deploy.lowering.network import Network, Size, Stem, block_sizes
from condensenet.deploy.lowering.pointwise import PointwiseOp
from condensenet.deploy.lowering.workloads import Variants, block_name, layer_name, transition_name
from condensenet.deploy.onnx_file import INPUT, OUTPUT


def lower_network(network: Network, size: Size, variants: Variants, opset: int) -> Any:
    """The ``ModelProto``: images (N, C, H, W) to logits (N, classes), N free. A variant may raise ``opset``.

    If every dense layer reads all features ("dense_normed"), the classifier does too, and the graph has no ``Gather``.
    """
    graph = Graph(opset)
    x = lower_stem(graph, INPUT, network.stem)
    for number, block in enumerate(network.blocks):
        x = blocks.VARIANTS[variants[block_name(number)]](graph, x, block_op(network, number, size, variants))
        if block.shrink is not None:
            op = PointwiseOp(conv=block.shrink, pools=block.pools)
            x = pointwise.VARIANTS[variants[transition_name(number)]](graph, x, op)
    reads_all = all(variant.startswith("dense_normed") for name, variant in variants.items() if "," in name)
    lower_classifier(graph, x, with_full_classifier(network) if reads_all else network)
    return graph.model({INPUT: ("batch", network.in_channels, *size)}, {OUTPUT: ("batch", len(network.bias))})


def block_op(network: Network, number: int, size: Size, variants: Variants) -> BlockOp:
    block = network.blocks[number]
    return BlockOp(
        layers=block.layers,
        variants=[variants[layer_name(number, position)] for position in range(len(block.layers))],
        size=block_sizes(network, size)[number],
        pools=block.pools and block.shrink is None,
    )


def lower_stem(graph: Graph, x: str, stem: Stem) -> str:
    """The first convolution. If a batch norm follows, it is folded in, and ReLU and 3x3 max pooling follow."""
    weight, pads = stem.weight, [stem.padding] * 4
    attributes = {"kernel_shape": list(weight.shape[2:]), "strides": [stem.stride] * 2, "pads": pads}
    if stem.scale is None or stem.shift is None:
        return graph.node("Conv", x, graph.constant(weight), **attributes)
    weight, bias = fold_after(weight, np.zeros(len(weight)), stem.scale, stem.shift)
    x = graph.node("Relu", graph.node("Conv", x, graph.constant(weight), graph.constant(bias), **attributes))
    return graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def with_full_classifier(network: Network) -> Network:
    """``network`` with a classifier that reads all features, with weight 0 where it did not: no gather."""
    weight = np.zeros((len(network.weight), len(network.scale)))
    weight[:, network.index] = network.weight
    return replace(network, index=np.arange(len(network.scale)), weight=weight)


def lower_classifier(graph: Graph, x: str, network: Network) -> None:
    """V mean(relu(s x + b)) + c over the features that the classifier reads.

    A clip as in the 1x1 convolutions, (V s) mean(clip(x)) + (V b + c), would be less exact: where few pixels of a
    feature pass the ReLU, b cancels a long sum with its rounding errors. With 32x32 pixels logits were off by 1e-4.
    """
    index = network.index
    x = pointwise.gather_channels(graph, x, index, len(network.scale))
    x = pointwise.norm_relu(graph, x, network.scale[index], network.shift[index])
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    logits = graph.node("Gemm", x, graph.constant(network.weight), graph.constant(network.bias), transB=1)
    graph.name_output(logits, OUTPUT)
