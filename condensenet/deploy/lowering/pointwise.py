"""Ways to compute a 1x1 group convolution with the batch norms around it: one function each, in ``VARIANTS``.

All compute relu(s2 y[order] + b2) or, if no batch norm follows, y[order], where y = W relu(s x[index] + b) by groups.
With ``folding.fold_clamp`` that is y = W' clip(x[index], low, high) + b', and
with ``folding.fold_after`` s2 and b2 are part of W' and b'.

Shapes: N images, G groups, R inputs of a group, I features, O outputs, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from condensenet.deploy.lowering.folding import Clamped, fold_after, fold_clamp
from condensenet.deploy.lowering.graph_builder import BLOCK, Graph
from condensenet.deploy.lowering.network import Array, Index, Pointwise


@dataclass(frozen=True, eq=False, kw_only=True)
class PointwiseOp:
    """A 1x1 convolution to lower, with what follows it: ``scale`` and ``shift`` (O,) of a batch norm and ReLU, if any.

    ``pools``: 2x2 average pooling follows. It commutes with a 1x1 convolution, so it may come first.
    """

    conv: Pointwise
    scale: Array | None = None
    shift: Array | None = None
    pools: bool = False


Variant = Callable[[Graph, str, PointwiseOp], str]


def gathered(graph: Graph, features: str, op: PointwiseOp) -> str:
    """x[index] by Gather, clip, group convolution, channel shuffle by Gather."""
    x = graph.node("Gather", features, graph.constant(op.conv.index), axis=1)
    return _grouped(graph, x, op)


def filled(graph: Graph, features: str, op: PointwiseOp) -> str:
    """As ``gathered``, with each group padded to a multiple of 16 inputs by inputs of weight 0.

    ONNX Runtime then convolves in its blocked layout if a group's outputs are a multiple of 16 too.
    """
    return gathered(graph, features, replace(op, conv=pad_groups(op.conv)))


def normed(graph: Graph, features: str, op: PointwiseOp) -> str:
    """As ``gathered``, with batch norm and ReLU instead of a clip, which takes two operators if the signs are mixed."""
    conv = op.conv
    x = graph.node("Gather", features, graph.constant(conv.index), axis=1)
    x = norm_relu(graph, x, conv.scale, conv.shift)
    zeros = np.zeros_like(conv.scale)
    unclamped = Clamped(low=zeros, high=zeros, weight=conv.weight, bias=np.zeros(conv.out_channels))
    return _after_clamp(graph, x, op, unclamped)


def dense(graph: Graph, features: str, op: PointwiseOp) -> str:
    """One dense convolution over all features, with weight 0 where a group does not read: no gather, no shuffle.

    W_dense[o, i] = sum of W'[o, r] over the r with index[g, r] = i, where o is an output of group g.
    """
    clamped = _folded(op, fold_clamp(op.conv))
    weight_OI, low, high = densify_clamped(op.conv, clamped)
    x = clamp(graph, features, low, high)
    if op.pools:
        x = average_pool(graph, x)
    order = op.conv.order
    return _conv(graph, x, weight_OI[order], clamped.bias[order], 1, relu=op.scale is not None)


def dense_normed(graph: Graph, features: str, op: PointwiseOp) -> str:
    """As ``dense``, with batch norm and ReLU of all features instead of a clip: faster outside ONNX Runtime."""
    scale, shift, weight_OI = densify(op.conv)
    x = norm_relu(graph, features, scale, shift)
    if op.pools:
        x = average_pool(graph, x)
    weight_OI, bias = weight_OI[op.conv.order], np.zeros(op.conv.out_channels)
    if op.scale is None or op.shift is None:
        return _conv(graph, x, weight_OI, bias, 1, relu=False)
    return _conv(graph, x, *fold_after(weight_OI, bias, op.scale, op.shift), 1, relu=True)


VARIANTS: dict[str, Variant] = {
    "gathered": gathered,
    "filled": filled,
    "normed": normed,
    "dense": dense,
    "dense_normed": dense_normed,
}


def valid_variants(conv: Pointwise) -> list[str]:
    """The variants that compute ``conv`` exactly and may be worth it."""
    fills = conv.weight.shape[1] % BLOCK != 0 and conv.out_channels // conv.groups % BLOCK == 0
    shared = has_shared_norm(conv)
    possible = {"filled": fills, "dense": shared, "dense_normed": shared}
    return [name for name in VARIANTS if possible.get(name, True)]


def pad_groups(conv: Pointwise) -> Pointwise:
    """``conv`` with inputs of weight, scale and shift 0 appended to each group, up to a multiple of 16."""
    inputs = conv.weight.shape[1]
    padding = ((0, 0), (0, -inputs % BLOCK))
    return replace(
        conv,
        index=np.pad(conv.index.reshape(conv.groups, inputs), padding, mode="edge").ravel(),
        scale=np.pad(conv.scale.reshape(conv.groups, inputs), padding).ravel(),
        shift=np.pad(conv.shift.reshape(conv.groups, inputs), padding).ravel(),
        weight=np.pad(conv.weight, padding),
    )


def has_shared_norm(conv: Pointwise) -> bool:
    """Whether every group that reads a feature normalises it in the same way, as is true right after conversion."""
    by_feature: dict[int, tuple[float, float]] = {}
    pairs = zip(conv.index.tolist(), zip(conv.scale.tolist(), conv.shift.tolist(), strict=True), strict=True)
    return all(by_feature.setdefault(feature, norm) == norm for feature, norm in pairs)


def densify(conv: Pointwise) -> tuple[Array, Array, Array]:
    """Scale (I,), shift (I,) and weights (O, I) over all features, 0 for those not read. Needs ``has_shared_norm``."""
    scale, shift = np.zeros(conv.in_channels), np.zeros(conv.in_channels)
    scale[conv.index], shift[conv.index] = conv.scale, conv.shift
    return scale, shift, _dense_weight(conv, conv.weight)


def densify_clamped(conv: Pointwise, clamped: Clamped) -> tuple[Array, Array, Array]:
    """The weights (O, I) of ``clamped`` over all features, and their bounds (I,), infinite for features not read."""
    low, high = np.full(conv.in_channels, -np.inf), np.full(conv.in_channels, np.inf)
    low[conv.index], high[conv.index] = clamped.low, clamped.high
    return _dense_weight(conv, clamped.weight), low, high


def _dense_weight(conv: Pointwise, weight_OR: Array) -> Array:
    outputs, inputs = weight_OR.shape
    weight_OI = np.zeros((outputs, conv.in_channels))
    index_OR = np.repeat(conv.index.reshape(conv.groups, inputs), outputs // conv.groups, axis=0)
    np.add.at(weight_OI, (np.arange(outputs)[:, None], index_OR), weight_OR)
    return weight_OI


def clamp(graph: Graph, x: str, low: Array, high: Array) -> str:
    """clip(x, low, high) by channel, in at most two operators; an infinite bound needs none."""
    if np.isfinite(low).any():
        x = graph.node("Max", x, graph.constant(low.reshape(-1, 1, 1)))
    if np.isfinite(high).any():
        x = graph.node("Min", x, graph.constant(high.reshape(-1, 1, 1)))
    return x


def norm_relu(graph: Graph, x: str, scale: Array, shift: Array) -> str:
    """relu(scale x + shift) by channel."""
    mean, variance = np.zeros_like(scale), np.ones_like(scale)
    parameters = [graph.constant(values) for values in (scale, shift, mean, variance)]
    return graph.node("Relu", graph.node("BatchNormalization", x, *parameters, epsilon=0.0))


def average_pool(graph: Graph, x: str) -> str:
    """2x2 average pooling; an odd last row or column is dropped."""
    return graph.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])


def gather_channels(graph: Graph, x: str, index: Index, channels: int) -> str:
    """x[index] of the ``channels`` of x; ``x`` itself if these are all of them in order."""
    if np.array_equal(index, np.arange(channels)):
        return x
    return graph.node("Gather", x, graph.constant(index), axis=1)


def _grouped(graph: Graph, x: str, op: PointwiseOp) -> str:
    """From the gathered inputs to the shuffled outputs."""
    clamped = fold_clamp(op.conv)
    return _after_clamp(graph, clamp(graph, x, clamped.low, clamped.high), op, clamped)


def _after_clamp(graph: Graph, x: str, op: PointwiseOp, clamped: Clamped) -> str:
    folded = _folded(op, clamped)
    if op.pools:
        x = average_pool(graph, x)
    x = _conv(graph, x, folded.weight, folded.bias, op.conv.groups, relu=op.scale is not None)
    return gather_channels(graph, x, op.conv.order, op.conv.out_channels)


def _folded(op: PointwiseOp, clamped: Clamped) -> Clamped:
    """``clamped`` with the batch norm that follows folded in."""
    if op.scale is None or op.shift is None:
        return clamped
    scale, shift = np.empty_like(op.scale), np.empty_like(op.shift)
    scale[op.conv.order], shift[op.conv.order] = op.scale, op.shift
    weight, bias = fold_after(clamped.weight, clamped.bias, scale, shift)
    return Clamped(low=clamped.low, high=clamped.high, weight=weight, bias=bias)


def _conv(graph: Graph, x: str, weight_OR: Array, bias: Array, groups: int, *, relu: bool) -> str:
    weight = graph.constant(weight_OR[:, :, None, None])
    x = graph.node("Conv", x, weight, graph.constant(bias), group=groups, kernel_shape=[1, 1])
    return graph.node("Relu", x) if relu else x
