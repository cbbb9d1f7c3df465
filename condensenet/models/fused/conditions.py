"""When dense blocks and pooling can be fused: layers as they were built, and no tracing, hooks or transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from condensenet.models import kernels
from condensenet.models.layers import DenseLayer, LearnedGroupConv, NormReluConv

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
FORWARDS = [(kind, kind.forward) for kind in (DenseLayer, LearnedGroupConv, NormReluConv, nn.BatchNorm2d, nn.Conv2d)]


def can_fuse_block(layers: Sequence[DenseLayer], features: Tensor) -> bool:
    """Whether ``fused_dense_block`` computes the same as these layers do for ``features``, and is faster."""
    return (
        _are_plain(features)
        and is_faster_fused(layers, features)
        and features[:, 0].numel() > 1
        and not torch.is_autocast_enabled("cpu")
        and not _has_any_global_hook()
        and all(kind.forward is forward for kind, forward in FORWARDS)  # nobody has replaced one of a whole class
        and all(_is_plain(layer) for layer in layers)
        and len({norm.eps for layer in layers for norm in norms(layer)}) == 1
        and len({(layer.conv_3x3.conv.groups, layer.conv_3x3.conv.out_channels) for layer in layers}) == 1
    )


def is_faster_fused(layers: Sequence[DenseLayer], features: Tensor) -> bool:
    """Unless the groups of the 3x3 convolution have more outputs than the image has pixels in a row.

    Measured with 16 and with 8 lanes (docs/LOG.md): the kernels win by few features and large planes, PyTorch's
    convolutions by many features and small planes.
    """
    conv = layers[0].conv_3x3.conv
    return (conv.out_channels // conv.groups) ** 2 <= features.shape[2] * features.shape[3]


def can_fuse_pool(features: Tensor) -> bool:
    """Whether ``fused_average_pool`` can pool ``features`` without a copy, as the output of ``fused_dense_block``."""
    return _are_plain(features) and min(features.shape[2:]) > 1 and features.transpose(0, 1).is_contiguous()


def norms(layer: DenseLayer) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    return cast("LearnedGroupConv", layer.conv_1x1).norm, layer.conv_3x3.norm


def _are_plain(features: Tensor) -> bool:
    return (
        not _is_traced()
        and type(features) is Tensor
        and features.device.type == "cpu"
        and torch.get_default_device().type == "cpu"  # where temporary tensors are made
        and features.dtype == torch.float32
        and torch.is_grad_enabled()
        and kernels.available()
    )


def _is_traced() -> bool:
    """Whether torch is tracing, counting or transforming single operations, which fusing would hide from it."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _is_plain(layer: DenseLayer) -> bool:
    """Whether it is in training, float32 and as built: no dropout, hooks, replaced parts or changed batch norms."""
    conv_1x1, conv_3x3 = layer.conv_1x1, layer.conv_3x3
    if type(conv_1x1) is not LearnedGroupConv or type(conv_3x3) is not NormReluConv or conv_1x1.dropout > 0:
        return False
    if not (_is_conv(conv_1x1.conv, 1) and conv_1x1.conv.groups == 1 and _is_conv(conv_3x3.conv, 3)):
        return False
    parts: list[nn.Module] = [layer, conv_1x1, conv_1x1.conv, conv_3x3, conv_3x3.conv, *norms(layer)]
    if any(_is_modified(part) for part in parts):
        return False
    if any(parameter.dtype != torch.float32 for parameter in layer.parameters()):
        return False
    return all(
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.track_running_stats
        and norm.affine
        and norm.momentum is not None
        and all(getattr(norm, name) is not None for name in NORM_TENSORS)
        for norm in norms(layer)
    )


def _is_conv(conv: nn.Module, kernel_size: int) -> bool:
    """Whether it is an ordinary convolution without bias, padded with zeros to keep H x W."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (kernel_size, kernel_size)
        and conv.padding == (kernel_size // 2, kernel_size // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.bias is None
    )


def _is_modified(part: nn.Module) -> bool:
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return any(hooks) or "forward" in vars(part)
