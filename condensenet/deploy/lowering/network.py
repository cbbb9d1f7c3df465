"""A trained network in grouped form as NumPy arrays: what the rewrites of this package work on.

Batch norms are their scale and shift in evaluation. Everything is float64 until it becomes a graph, so folding costs
at most one rounding. Shapes: G groups, R inputs that a group of a 1x1 convolution reads, I inputs, O outputs,
k new features of a dense layer, F features that reach the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Size = tuple[int, int]  # height, width


@dataclass(frozen=True, eq=False, kw_only=True)
class Pointwise:
    """BN, ReLU, 1x1 group convolution over gathered inputs: y[order] of W relu(scale x[index] + shift), by groups."""

    in_channels: int  # I
    groups: int
    index: Index  # (G * R,), group by group
    scale: Array  # (G * R,)
    shift: Array  # (G * R,)
    weight: Array  # (O, R), group by group
    order: Index  # (O,): output channel j is row order[j] of weight: the channel shuffle

    @property
    def out_channels(self) -> int:
        return len(self.weight)


@dataclass(frozen=True, eq=False, kw_only=True)
class Spatial:
    """BN, ReLU, 3x3 group convolution, padded by 1."""

    groups: int
    scale: Array  # (O,), of its inputs
    shift: Array  # (O,)
    weight: Array  # (k, O / groups, 3, 3)


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """A dense layer: its new features are appended to those it reads."""

    conv_1x1: Pointwise
    conv_3x3: Spatial


@dataclass(frozen=True, eq=False, kw_only=True)
class Stem:
    """The first convolution; in a DenseNet, BN, ReLU and 3x3 max pooling follow."""

    weight: Array  # (O, I, h, w)
    stride: int
    padding: int
    scale: Array | None  # (O,)
    shift: Array | None  # (O,)

    @property
    def pools(self) -> bool:
        return self.scale is not None


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Dense layers, then 2x2 average pooling except in the last block, in DenseNets after a 1x1 convolution."""

    layers: tuple[Layer, ...]
    shrink: Pointwise | None
    pools: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """Stem, blocks, BN and ReLU of the last features, mean over all pixels, classifier over the kept features."""

    in_channels: int
    stem: Stem
    blocks: tuple[Block, ...]
    scale: Array  # (F,)
    shift: Array  # (F,)
    index: Index  # features that the classifier reads
    weight: Array  # (classes, len(index))
    bias: Array  # (classes,)


def block_sizes(network: Network, size: Size) -> list[Size]:
    """Height and width in each block for images of ``size``."""
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
