"""Ways to compute a 3x3 group convolution, stride 1, padded by 1: one function each, in ``VARIANTS``.

All take x (N, I, H, W) and return y (N, O, H, W), y[o, p] = sum over i of o's group and the nine offsets d of
W[o, i, d] x[i, p + d], with x = 0 outside the image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from condensenet.deploy.lowering.graph_builder import BLOCK, Graph
from condensenet.deploy.lowering.network import Array, Size, Spatial

Variant = Callable[[Graph, str, Spatial, Size], str]


def plain(graph: Graph, x: str, conv: Spatial, size: Size) -> str:
    """One group convolution."""
    return _conv(graph, x, conv.weight, conv.groups)


def merged(graph: Graph, x: str, conv: Spatial, size: Size) -> str:
    """Groups merged, with zeros off the diagonal: as few as make a group's inputs and outputs multiples of 16."""
    merged_groups = groups_to_merge(conv)
    assert merged_groups is not None
    return _conv(graph, x, merge_groups(conv.weight, conv.groups, merged_groups), conv.groups // merged_groups)


def dense(graph: Graph, x: str, conv: Spatial, size: Size) -> str:
    """All groups merged into one dense convolution."""
    return _conv(graph, x, merge_groups(conv.weight, conv.groups, conv.groups), 1)


def transposed(graph: Graph, x: str, conv: Spatial, size: Size) -> str:
    """A transposed convolution with each kernel rotated by 180 degrees, y[o, p + d] += W[o, i, -d] x[i, p].

    ONNX Runtime multiplies first, (9 O / G, I / G) by (I / G, H W), and then sums the nine shifted products. A
    convolution first copies the nine shifted inputs: four times as many, since a dense layer has I = 4 O.
    """
    outputs, inputs = conv.weight.shape[:2]
    weight_GOI = conv.weight[:, :, ::-1, ::-1].reshape(conv.groups, outputs // conv.groups, inputs, 3, 3)
    weight = weight_GOI.swapaxes(1, 2).reshape(conv.groups * inputs, outputs // conv.groups, 3, 3)
    return graph.node(
        "ConvTranspose", x, graph.constant(weight), group=conv.groups, kernel_shape=[3, 3], pads=[1, 1, 1, 1]
    )


def columns(graph: Graph, x: str, conv: Spatial, size: Size) -> str:
    """As ``transposed``, in two operators: a 1x1 group convolution with 9 O outputs, then Col2Im."""
    outputs, inputs = conv.weight.shape[:2]
    weight = conv.weight[:, :, ::-1, ::-1].transpose(0, 2, 3, 1).reshape(9 * outputs, inputs, 1, 1)
    x = graph.node("Conv", x, graph.constant(weight), group=conv.groups, kernel_shape=[1, 1])
    x = graph.node("Reshape", x, graph.constant(np.array([0, 9 * outputs, size[0] * size[1]])))
    image, kernel = graph.constant(np.array(size)), graph.constant(np.array([3, 3]))
    return graph.node("Col2Im", x, image, kernel, pads=[1, 1, 1, 1])


VARIANTS: dict[str, Variant] = {
    "plain": plain,
    "merged": merged,
    "dense": dense,
    "transposed": transposed,
    "columns": columns,
}


def valid_variants(conv: Spatial) -> list[str]:
    """The variants that compute ``conv`` exactly and may be worth it."""
    count = groups_to_merge(conv)
    narrow = conv.groups > 1 and len(conv.weight) <= BLOCK
    possible = {"merged": count is not None, "dense": narrow and count != conv.groups}
    return [name for name in VARIANTS if possible.get(name, True)]


def groups_to_merge(conv: Spatial) -> int | None:
    """How many groups, more than one, make one whose inputs and outputs are multiples of 16; None if no number does."""
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    for count in range(1, conv.groups + 1):
        if conv.groups % count == 0 and count * outputs % BLOCK == 0 and count * inputs % BLOCK == 0:
            return count if count > 1 else None
    return None


def merge_groups(weight: Array, groups: int, count: int) -> Array:
    """Weights (O, I / G, 3, 3) of ``groups`` groups as those of ``groups / count`` (O, count I / G, 3, 3)."""
    outputs, inputs = weight.shape[:2]
    wide = np.zeros((outputs, count * inputs, *weight.shape[2:]))
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        first = group % count * inputs
        wide[rows, first : first + inputs] = weight[rows]
    return wide


def _conv(graph: Graph, x: str, weight: Array, groups: int) -> str:
    return graph.node("Conv", x, graph.constant(weight), group=groups, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
