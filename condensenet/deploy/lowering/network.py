"""A trained network in grouped form as plain arrays, which the rewrites of this package work on.

Batch norms are scale and shift of evaluation, in float64 as everything here is until it becomes a graph: folding
then costs no more than one rounding. Shapes: G groups, R inputs that a group of a 1x1 convolution reads, I inputs,
O outputs, k new features of a dense layer, F features that reach the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from condensenet.models.condensenet import CondenseNet, DenseLayer, Transition
from condensenet.models.layers import CondensedGroupConv, CondensedLinear, NormReluConv

Array = NDArray[np.float64]
Index = NDArray[np.int64]


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
    """A dense layer: what it makes comes behind what it reads."""

    conv_1x1: Pointwise
    conv_3x3: Spatial


@dataclass(frozen=True, eq=False, kw_only=True)
class Stem:
    """The first convolution, without padding loss; a DenseNet's goes on with BN, ReLU and 3x3 max pooling."""

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
    """Dense layers, then 2x2 average pooling but for the last block, with a 1x1 convolution before it in DenseNets."""

    layers: tuple[Layer, ...]
    shrink: Pointwise | None
    pools: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """BN and ReLU of the last features, their mean over all pixels, then the classifier over the kept ones."""

    in_channels: int
    stem: Stem
    blocks: tuple[Block, ...]
    scale: Array  # (F,)
    shift: Array  # (F,)
    index: Index  # of the features that the classifier reads
    weight: Array  # (classes, len(index))
    bias: Array  # (classes,)


def read_network(model: CondenseNet) -> Network:
    """The arrays of ``model``, whose tensors are left alone. Raises ``ValueError`` if it is not in grouped form."""
    if model.form != "grouped":
        raise ValueError(f"a model in {model.form} form cannot be lowered: convert it first")
    last = len(model.blocks) - 1
    blocks = []
    for number, dense_block in enumerate(model.blocks):
        transition = model.transitions[number] if number < last else None
        assert transition is None or isinstance(transition, Transition)
        shrink = None if transition is None else transition.conv_1x1
        blocks.append(
            Block(
                layers=tuple(_layer(layer) for layer in dense_block.children()),
                shrink=None if shrink is None else _pointwise(shrink),
                pools=transition is not None,
            )
        )
    scale, shift = _norm(model.norm)
    index, linear = _classifier(model.classifier)
    return Network(
        in_channels=model.config.in_channels,
        stem=_stem(model.stem),
        blocks=tuple(blocks),
        scale=scale,
        shift=shift,
        index=index,
        weight=_array(linear.weight),
        bias=_array(linear.bias),
    )


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()


def _norm(norm: nn.Module) -> tuple[Array, Array]:
    """Scale and shift of a batch norm in evaluation."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
    return scale, _array(norm.bias) - _array(norm.running_mean) * scale


def _stem(stem: nn.Module) -> Stem:
    conv = stem[0] if isinstance(stem, nn.Sequential) else stem
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(conv.padding[0], int)
    scale, shift = _norm(stem[1]) if isinstance(stem, nn.Sequential) else (None, None)
    return Stem(weight=_array(conv.weight), stride=conv.stride[0], padding=conv.padding[0], scale=scale, shift=shift)


def _layer(layer: nn.Module) -> Layer:
    assert isinstance(layer, DenseLayer)
    scale, shift = _norm(layer.conv_3x3.norm)
    conv = layer.conv_3x3.conv
    spatial = Spatial(groups=conv.groups, scale=scale, shift=shift, weight=_array(conv.weight))
    return Layer(conv_1x1=_pointwise(layer.conv_1x1), conv_3x3=spatial)


def _pointwise(module: nn.Module) -> Pointwise:
    assert isinstance(module, CondensedGroupConv | NormReluConv)
    scale, shift = _norm(module.norm)
    weight = _array(module.conv.weight)[:, :, 0, 0]
    groups = module.conv.groups
    if isinstance(module, CondensedGroupConv):
        index, in_channels = module.index.cpu().numpy(), module.in_channels
    else:
        index, in_channels = np.arange(len(scale)), len(scale)
    return Pointwise(
        in_channels=in_channels,
        groups=groups,
        index=index,
        scale=scale,
        shift=shift,
        weight=weight,
        order=np.arange(len(weight)).reshape(groups, -1).T.ravel(),
    )


def _classifier(module: nn.Module) -> tuple[Index, nn.Linear]:
    if isinstance(module, CondensedLinear):
        return module.index.cpu().numpy(), module.linear
    assert isinstance(module, nn.Linear)
    return np.arange(module.in_features), module
