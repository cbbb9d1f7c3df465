"""Ways to compute a 1x1 group convolution with the batch norms around it: one function each, in ``VARIANTS``.

All compute relu(s2 y[order] + b2) or, without a batch norm after it, y[order], where
y = W relu(s x[index] + b) by groups. With ``folding.fold_clamp`` that is y = W' clip(x[index], low, high) + b', and
with ``folding.fold_after`` s2 and b2 are part of W' and b'.

Shapes: N images, G groups, R inputs of a group, I features, O outputs, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from condensenet.deploy.lowering.folding import Clamped, fold_after, fold_clamp
from condensenet.deploy.lowering.graph import BLOCK, Graph
from condensenet.deploy.lowering.network import Array, Index, Pointwise


@dataclass(frozen=True, eq=False, kw_only=True)
class Place:
    """A 1x1 convolution where it stands: ``scale`` and ``shift`` (O,) of the batch norm and ReLU after it, if any.

    ``pools``: 2x2 average pooling comes after it. A convolution of one pixel may be swapped with the pooling.
    """

    conv: Pointwise
    scale: Array | None = None
    shift: Array | None = None
    pools: bool = False


Variant = Callable[[Graph, str, Place], str]


def gathered(graph: Graph, features: str, place: Place) -> str:
    """x[index] by Gather, clip, group convolution, channel shuffle by Gather."""
    x = graph.node("Gather", features, graph.constant(place.conv.index), axis=1)
    return _grouped(graph, x, place)


def filled(graph: Graph, features: str, place: Place) -> str:
    """As ``gathered``, each group's inputs filled up to a multiple of 16 by inputs of weight 0.

    ONNX Runtime then convolves in its blocked layout, if a group's outputs are a multiple of 16 too.
    """
    return gathered(graph, features, replace(place, conv=fill(place.conv)))


def normed(graph: Graph, features: str, place: Place) -> str:
    """As ``gathered``, with batch norm and ReLU as they are: no clip, whose rows may be short and its signs mixed."""
    conv = place.conv
    x = graph.node("Gather", features, graph.constant(conv.index), axis=1)
    x = norm_relu(graph, x, conv.scale, conv.shift)
    zeros = np.zeros_like(conv.scale)
    unclamped = Clamped(low=zeros, high=zeros, weight=conv.weight, bias=np.zeros(conv.out_channels))
    return _after_clamp(graph, x, place, unclamped)


def dense(graph: Graph, features: str, place: Place) -> str:
    """One convolution over all features, zero where a group does not read: no gather, no shuffle.

    W_dense[o, i] = sum of W'[o, r] over the r with index[g, r] = i, where o is an output of group g.
    """
    clamped = _folded(place, fold_clamp(place.conv))
    weight_OI, low, high = expand(place.conv, clamped)
    x = clamp(graph, features, low, high)
    if place.pools:
        x = average(graph, x)
    order = place.conv.order
    return _conv(graph, x, weight_OI[order], clamped.bias[order], 1, relu=place.scale is not None)


VARIANTS: dict[str, Variant] = {
    "gathered": gathered,
    "filled": filled,
    "normed": normed,
    "dense": dense,
}


def choices(conv: Pointwise) -> list[str]:
    """The variants that can compute ``conv``."""
    fills = conv.weight.shape[1] % BLOCK != 0 and conv.out_channels // conv.groups % BLOCK == 0
    possible = {"filled": fills, "dense": reads_alike(conv)}
    return [name for name in VARIANTS if possible.get(name, True)]


def fill(conv: Pointwise) -> Pointwise:
    """``conv`` with inputs of weight, scale and shift 0 behind those of each group, up to a multiple of 16."""
    inputs = conv.weight.shape[1]
    more = -inputs % BLOCK
    behind = ((0, 0), (0, more))
    return replace(
        conv,
        index=np.pad(conv.index.reshape(conv.groups, inputs), behind, mode="edge").ravel(),
        scale=np.pad(conv.scale.reshape(conv.groups, inputs), behind).ravel(),
        shift=np.pad(conv.shift.reshape(conv.groups, inputs), behind).ravel(),
        weight=np.pad(conv.weight, behind),
    )


def reads_alike(conv: Pointwise) -> bool:
    """Whether each feature is normalised in the same way by every group that reads it, as conversion makes it."""
    by_feature: dict[int, tuple[float, float]] = {}
    pairs = zip(conv.index.tolist(), zip(conv.scale.tolist(), conv.shift.tolist(), strict=True), strict=True)
    return all(by_feature.setdefault(feature, norm) == norm for feature, norm in pairs)


def spread(conv: Pointwise) -> tuple[Array, Array, Array]:
    """Scale and shift (I,) and weights (O, I) over all features, 0 for one that is not read; ``reads_alike`` holds."""
    scale, shift = np.zeros(conv.in_channels), np.zeros(conv.in_channels)
    scale[conv.index], shift[conv.index] = conv.scale, conv.shift
    return scale, shift, _spread_weight(conv, conv.weight)


def expand(conv: Pointwise, clamped: Clamped) -> tuple[Array, Array, Array]:
    """The weights of ``clamped`` (O, I) over all features, and their bounds (I,): none for one that is not read."""
    low, high = np.full(conv.in_channels, -np.inf), np.full(conv.in_channels, np.inf)
    low[conv.index], high[conv.index] = clamped.low, clamped.high
    return _spread_weight(conv, clamped.weight), low, high


def _spread_weight(conv: Pointwise, weight_OR: Array) -> Array:
    outputs, inputs = weight_OR.shape
    weight_OI = np.zeros((outputs, conv.in_channels))
    index_OR = np.repeat(conv.index.reshape(conv.groups, inputs), outputs // conv.groups, axis=0)
    np.add.at(weight_OI, (np.arange(outputs)[:, None], index_OR), weight_OR)
    return weight_OI


def clamp(graph: Graph, x: str, low: Array, high: Array) -> str:
    """clip(x, low, high) by channel, with as few operations as the bounds need."""
    if np.isfinite(low).any():
        x = graph.node("Max", x, graph.constant(low.reshape(-1, 1, 1)))
    if np.isfinite(high).any():
        x = graph.node("Min", x, graph.constant(high.reshape(-1, 1, 1)))
    return x


def norm_relu(graph: Graph, x: str, scale: Array, shift: Array) -> str:
    """relu(scale x + shift) by channel."""
    values = (scale, shift, np.zeros_like(scale), np.ones_like(scale))
    statistics = [graph.constant(each) for each in values]
    return graph.node("Relu", graph.node("BatchNormalization", x, *statistics, epsilon=0.0))


def average(graph: Graph, x: str) -> str:
    """2x2 average pooling; an odd last row or column is left out."""
    return graph.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])


def shuffle(graph: Graph, x: str, order: Index) -> str:
    return x if np.array_equal(order, np.arange(len(order))) else graph.node("Gather", x, graph.constant(order), axis=1)


def _grouped(graph: Graph, x: str, place: Place) -> str:
    """From the gathered inputs to the output in its order."""
    clamped = fold_clamp(place.conv)
    return _after_clamp(graph, clamp(graph, x, clamped.low, clamped.high), place, clamped)


def _after_clamp(graph: Graph, x: str, place: Place, clamped: Clamped) -> str:
    folded = _folded(place, clamped)
    if place.pools:
        x = average(graph, x)
    x = _conv(graph, x, folded.weight, folded.bias, place.conv.groups, relu=place.scale is not None)
    return shuffle(graph, x, place.conv.order)


def _folded(place: Place, clamped: Clamped) -> Clamped:
    """``clamped`` with the batch norm after it folded into it."""
    if place.scale is None or place.shift is None:
        return clamped
    scale, shift = np.empty_like(place.scale), np.empty_like(place.shift)
    scale[place.conv.order], shift[place.conv.order] = place.scale, place.shift
    weight, bias = fold_after(clamped.weight, clamped.bias, scale, shift)
    return Clamped(low=clamped.low, high=clamped.high, weight=weight, bias=bias)


def _conv(graph: Graph, x: str, weight_OR: Array, bias: Array, groups: int, *, relu: bool) -> str:
    weight = graph.constant(weight_OR[:, :, None, None])
    x = graph.node("Conv", x, weight, graph.constant(bias), group=groups, kernel_shape=[1, 1])
    return graph.node("Relu", x) if relu else x
