"""Dense blocks as the two lists that the operator reads; their format is described in parse.h."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condensenet.deploy.lowering.folding import Clamped, fold_after, fold_clamp
from condensenet.deploy.lowering.network import Array, Block, Layer, Network, Stem

POOL_NONE, POOL_AVERAGE, POOL_GLOBAL = range(3)
NEXT_BLOCK, STEM, CLASSIFIER = range(1, 4)


@dataclass(frozen=True, eq=False)
class Encoded:
    """The two lists in the order of parse.h."""

    integers: NDArray[np.int64]  # (n,): counts and channels
    numbers: NDArray[np.float32]  # (m,): bounds, biases, weights


def encode_blocks(
    blocks: Sequence[Block], pool: int, *, stem: Stem | None = None, tail: Network | None = None
) -> Encoded:
    """``blocks``, with 2x2 average pooling between them and ``pool``, one of the three above, after the last.

    With ``stem`` the input is images, else the input channels of the first block. ``tail`` is the network whose last
    batch norm and classifier follow, and None unless ``pool`` is ``POOL_GLOBAL``.
    """
    lists: list[tuple[Sequence[int] | NDArray[np.int64], Array]] = []
    header = [pool, blocks[0].layers[0].conv_1x1.in_channels]
    for block in blocks:
        lists.append(([*header, len(block.layers)], np.empty(0)))
        lists += [_encode_layer(layer) for layer in block.layers]
        header = [NEXT_BLOCK]
    if tail is not None:
        lists.append(([], np.concatenate([tail.scale, tail.shift])))
    if stem is not None:
        outs, channels, kernel, _ = stem.weight.shape
        lists.append(([STEM, channels, outs, kernel, stem.stride, stem.padding], stem.weight.ravel()))
    if tail is not None:
        classifier = np.concatenate([tail.weight.ravel(), tail.bias])
        lists.append(([CLASSIFIER, len(tail.bias), len(tail.index), *tail.index], classifier))
    integers, numbers = zip(*lists, strict=True)
    return Encoded(np.concatenate(integers).astype(np.int64), np.concatenate(numbers).astype(np.float32))


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
