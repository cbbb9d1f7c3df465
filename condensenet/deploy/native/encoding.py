"""A dense block as the two lists that the operator reads; their format is described in parse.h."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condensenet.deploy.lowering.folding import Clamped, fold_after, fold_clamp
from condensenet.deploy.lowering.network import Array, Block, Layer

POOL_NONE, POOL_AVERAGE, POOL_GLOBAL = range(3)


@dataclass(frozen=True, eq=False)
class Encoded:
    """The two lists in the order of parse.h."""

    integers: NDArray[np.int64]  # (n,): counts and channels
    numbers: NDArray[np.float32]  # (m,): bounds, biases, weights


def encode_block(
    block: Block, inputs: int, pool: int, scale: Array | None = None, shift: Array | None = None
) -> Encoded:
    """``block`` with ``inputs`` input channels, then the pooling ``pool``, one of the three above.

    ``scale`` and ``shift`` (F,) are the batch norm of all F features before ``POOL_GLOBAL``, and None for other pools.
    """
    layers = [_encode_layer(layer) for layer in block.layers]
    tail = [] if scale is None or shift is None else [scale, shift]
    return Encoded(
        np.concatenate([np.array([pool, inputs, len(layers)]), *(integers for integers, _ in layers)]).astype(np.int64),
        np.concatenate([*(numbers for _, numbers in layers), *tail, np.empty(0)]).astype(np.float32),
    )


def _encode_layer(layer: Layer) -> tuple[NDArray[np.int64], Array]:
    conv, spatial = layer.conv_1x1, layer.conv_3x3
    clamped = fold_clamp(conv)
    channel = np.empty_like(conv.order)
    channel[conv.order] = np.arange(len(conv.order))
    index, bound, weight, rising = _rising_first(conv.index, clamped, conv.groups)
    weight, bias = fold_after(weight, clamped.bias, spatial.scale[channel], spatial.shift[channel])
    sizes = (
        conv.groups,
        weight.shape[1],
        len(weight) // conv.groups,
        spatial.groups,
        len(spatial.weight) // spatial.groups,
    )
    return (
        np.concatenate([np.array(sizes), index, rising, channel]),
        np.concatenate([bound, bias, weight.ravel(), spatial.weight.ravel()]),
    )


def _rising_first(
    index: NDArray[np.int64], clamped: Clamped, groups: int
) -> tuple[NDArray[np.int64], Array, Array, NDArray[np.int64]]:
    """Index, bound and weight with the inputs clamped from below first in each group, and the number of these."""
    falling_GR = np.isfinite(clamped.high).reshape(groups, -1)
    order_GR = np.argsort(falling_GR, axis=1, kind="stable")
    bound_GR = np.where(falling_GR, clamped.high.reshape(groups, -1), clamped.low.reshape(groups, -1))
    weight_GKR = clamped.weight.reshape(groups, -1, clamped.weight.shape[1])
    return (
        np.take_along_axis(index.reshape(groups, -1), order_GR, axis=1).ravel(),
        np.take_along_axis(bound_GR, order_GR, axis=1).ravel(),
        np.take_along_axis(weight_GKR, order_GR[:, None], axis=2).reshape(clamped.weight.shape),
        (~falling_GR).sum(axis=1),
    )
