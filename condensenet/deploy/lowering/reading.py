"""From a ``CondenseNet`` in grouped form to the arrays that are lowered."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from torch import nn

from condensenet.deploy.lowering.network import (
    Array,
    Block,
    Index,
    Layer,
    Network,
    Pointwise,
    Size,
    Spatial,
    Stem,
    block_sizes,
)
from condensenet.models.condensenet import CondenseNet, DenseLayer, Transition
from condensenet.models.layers import CondensedGroupConv, CondensedLinear, NormReluConv
from condensenet.models.shapes import image_shape


def read_for_size(model: CondenseNet, input_size: int | Sequence[int]) -> tuple[Network, Size]:
    """The network's arrays, and (height, width); raises ``ValueError`` if pooling would leave a block no pixels."""
    _, height, width = image_shape(model, input_size)
    network = read_network(model)
    sizes = block_sizes(network, (height, width))
    if min(map(min, sizes)) < 1:
        left = " and ".join(str(size) for size in sizes)
        raise ValueError(f"{input_size=} is not allowed: the blocks would get images of {left} pixels")
    return network, (height, width)


def read_network(model: CondenseNet) -> Network:
    """The arrays of ``model``, which is not changed. Raises ``ValueError`` if it is not in grouped form."""
    if model.form != "grouped":
        raise ValueError(f"a model in {model.form} form cannot be lowered: convert it first")
    scale, shift = _norm(model.norm)
    index, linear = _classifier(model.classifier)
    return Network(
        in_channels=model.config.in_channels,
        stem=_stem(model.stem),
        blocks=tuple(_block(*pair) for pair in zip_longest(model.blocks, model.transitions)),
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


def _block(block: nn.Module, transition: nn.Module | None) -> Block:
    assert transition is None or isinstance(transition, Transition)
    shrink = None if transition is None else transition.conv_1x1
    return Block(
        layers=tuple(_layer(layer) for layer in block.children()),
        shrink=None if shrink is None else _pointwise(shrink),
        pools=transition is not None,
    )


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
    if not isinstance(module, nn.Linear):
        raise ValueError("the network has no classifier (num_classes=0): export_onnx writes it, other forms do not")
    return np.arange(module.in_features), module
