"""A dense block as one differentiable operation on the CPU: the same function as its layers, but faster.

What makes it fast, apart from the compiled kernels:

- Batch statistics of a feature are computed once, when the feature is made, not in each layer that reads it. Features
  are kept standardised, so a layer's batch norm reduces to scale and shift, and the backward pass goes through the
  statistics once per feature, for all its readers together.
- All features of a block are in one buffer, channel by channel, so nothing is concatenated or copied.
- Only the features and the outputs of the 1x1 convolutions are saved for the backward pass; the rest is recomputed.
- Where a layer keeps so few inputs that gathering them for every group reads no more than all inputs would, its 1x1
  convolution is computed in grouped form (if G <= C, from the last condensing stage on at the latest).

Shapes: C features (channels), M = N * H * W pixels, I inputs of a layer, G groups of R inputs and K filters each,
J = G * R. Row g * K + k of a 1x1 convolution's output is filter k of group g, which is output k * G + g. For a 3x3
convolution, K are its inputs and k its outputs, all groups together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from condensenet.models import kernels
from condensenet.models.condensing import by_group
from condensenet.models.fused.conditions import norms
from condensenet.models.layers import DenseLayer, LearnedGroupConv


def fused_dense_block(layers: Sequence[DenseLayer], features: Tensor) -> Tensor:
    """Append the features of all layers to the (N, C, H, W) features; updates running statistics as the layers do.

    The result is planar: with N and C transposed it is contiguous.
    """
    tensors: list[Tensor] = [tensor for layer in layers for tensor in _tensors(layer)]
    first = layers[0]
    groups_3x3 = first.conv_3x3.conv.groups
    result: list[Tensor] = _DenseBlock.apply(features, groups_3x3, first.conv_3x3.norm.eps, *tensors)
    planes, mean, variance, *inner = result
    out = planes.transpose(0, 1)
    _update_running(layers, out[:, 0].numel(), mean, variance, inner)
    return out


def _tensors(layer: DenseLayer) -> tuple[Tensor, ...]:
    """The tensors of a ``_Layer``, in its order."""
    conv = layer.conv_1x1
    assert isinstance(conv, LearnedGroupConv)
    norm_1x1, norm_3x3 = norms(layer)
    groups, filters = conv.groups, conv.out_channels // conv.groups
    if groups * (conv.in_channels - conv.num_dropped) <= conv.in_channels:
        kept_GR = conv.kept_inputs()
        index_J = kept_GR.flatten()
        w_GKI = by_group(conv.full_weight, groups).transpose(0, 1)
        weight = w_GKI.gather(2, kept_GR[:, None].expand(-1, filters, -1))
        row = torch.arange(conv.out_channels).view(groups, filters).t().flatten()
    else:
        index_J = torch.arange(conv.in_channels)
        weight = conv.weight_in_use().flatten(1)[None]
        row = torch.arange(conv.out_channels)
    return (
        norm_1x1.weight,
        norm_1x1.bias,
        index_J,
        weight.contiguous(),
        norm_3x3.weight,
        norm_3x3.bias,
        row,
        layer.conv_3x3.conv.weight.contiguous(),
    )


def fused_average_pool(features: Tensor) -> Tensor:
    """2x2 average pooling of planar (N, C, H, W) features; the result is planar too."""
    pooled: Tensor = _AveragePool.apply(features.transpose(0, 1))
    return pooled.transpose(0, 1)


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor) -> Tensor:
        ctx.size = planes.shape[-2:]
        return kernels.average_pool(planes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        _refuse_second_derivatives()
        return kernels.average_pool_backward(gradient.contiguous(), ctx.size)


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(f"second derivatives need {kernels.SWITCH}=off: the compiled kernels do not implement them")


@torch.no_grad()
def _update_running(
    layers: Sequence[DenseLayer], pixels: int, mean: Tensor, variance: Tensor, inner: Sequence[Tensor]
) -> None:
    """``inner`` holds the mean and variance of every layer's second batch norm."""
    for number, layer in enumerate(layers):
        statistics = ((mean, variance), (inner[2 * number], inner[2 * number + 1]))
        for norm, (batch_mean, batch_variance) in zip(norms(layer), statistics, strict=True):
            momentum, inputs = cast("float", norm.momentum), norm.num_features
            cast("Tensor", norm.running_mean).lerp_(batch_mean[:inputs], momentum)
            cast("Tensor", norm.running_var).lerp_(batch_variance[:inputs] * (pixels / (pixels - 1)), momentum)
            cast("Tensor", norm.num_batches_tracked).add_(1)


class _Layer(NamedTuple):
    scale_1x1: Tensor  # (I,)
    shift_1x1: Tensor
    reads: Tensor  # (J,) indices of the features it reads, group by group
    weight_1x1: Tensor  # (G, K, R)
    scale_3x3: Tensor  # (G * K,)
    shift_3x3: Tensor
    row: Tensor  # (G * K,) row of the 1x1 convolution's output for each input channel of the 3x3 convolution
    weight_3x3: Tensor


class _Inner(NamedTuple):
    """What a layer saves for the backward pass: the output of its 1x1 convolution, and its batch norm by channel."""

    y_KM: Tensor
    mean: Tensor
    rstd: Tensor
    scale: Tensor  # scale_3x3 * rstd
    shift: Tensor


def _grouped(values: Sequence[Tensor], size: int) -> list[tuple[Tensor, ...]]:
    return [tuple(values[start : start + size]) for start in range(0, len(values), size)]


class _DenseBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, groups_3x3: int, eps: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        layers = [_Layer(*fields) for fields in _grouped(tensors, len(_Layer._fields))]
        images, inputs, height, width = features.shape
        size, growth = (images, height, width), len(layers[0].weight_3x3)
        channels, pixels = inputs + len(layers) * growth, images * height * width
        planes = features.new_empty(channels, *size)  # no view, so that a hook may change the result in place
        out_CM, xhat_CM = planes.view(channels, pixels), features.new_empty(channels, pixels)
        mean, variance, rstd = features.new_empty(3, channels)

        def add(begin: int, end: int) -> None:
            mean[begin:end], variance[begin:end] = kernels.row_statistics(out_CM[begin:end])
            rstd[begin:end] = (variance[begin:end] + eps).rsqrt()
            kernels.standardise(out_CM[begin:end], mean[begin:end], rstd[begin:end], xhat_CM[begin:end])

        out_CM[:inputs] = features.transpose(0, 1).reshape(inputs, pixels)
        add(0, inputs)
        kept: list[Tensor] = []
        statistics: list[Tensor] = []
        for number, layer in enumerate(layers):
            begin = inputs + number * growth
            y_KM = kernels.pointwise(xhat_CM, *_inputs(layer), layer.weight_1x1)
            inner, inner_variance = _norm_3x3(layer, y_KM, eps)
            new_kM = out_CM[begin : begin + growth]
            kernels.conv3x3(size, groups_3x3, y_KM, layer.row, inner.scale, inner.shift, layer.weight_3x3, new_kM)
            add(begin, begin + growth)
            kept += inner
            statistics += [inner.mean, inner_variance]
        ctx.size, ctx.groups_3x3, ctx.inputs = size, groups_3x3, inputs
        ctx.save_for_backward(xhat_CM, rstd, *kept, *tensors)
        ctx.mark_non_differentiable(mean, variance, *statistics)
        return planes, mean, variance, *statistics

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        xhat_CM, rstd, *rest = ctx.saved_tensors
        channels, pixels = xhat_CM.shape
        split = len(rest) * len(_Inner._fields) // (len(_Inner._fields) + len(_Layer._fields))
        inners = [_Inner(*fields) for fields in _grouped(rest[:split], len(_Inner._fields))]
        layers = [_Layer(*fields) for fields in _grouped(rest[split:], len(_Layer._fields))]
        gradient_CM = gradient.reshape(channels, pixels).contiguous()
        dxhat_CM = torch.zeros_like(xhat_CM)
        mean_g, mean_gx = xhat_CM.new_zeros(2, channels)  # of dxhat, and of dxhat * xhat
        dy_KM = torch.empty_like(inners[0].y_KM)

        def features(begin: int, end: int) -> tuple[Tensor, ...]:
            return tuple(rows[begin:end] for rows in (xhat_CM, dxhat_CM, gradient_CM, rstd, mean_g, mean_gx))

        gradients: list[Tensor | None] = []
        end = channels
        for layer, inner in zip(reversed(layers), reversed(inners), strict=True):
            begin = end - len(layer.weight_3x3)
            new = features(begin, end)
            of_3x3 = _backward_3x3(ctx.size, ctx.groups_3x3, layer, inner, new, dy_KM)
            scale, shift, weight = _backward_1x1(layer, xhat_CM, dxhat_CM, dy_KM)
            mean_g[:begin] += layer.scale_1x1 * shift / pixels
            mean_gx[:begin] += layer.scale_1x1 * scale / pixels
            gradients = [scale, shift, None, weight, *of_3x3, *gradients]
            end = begin
        of_input = kernels.feature_gradient(*features(0, end))
        return of_input.view(end, *ctx.size).transpose(0, 1), None, None, *gradients


def _inputs(layer: _Layer) -> tuple[Tensor, Tensor, Tensor]:
    """Which features a layer's 1x1 convolution reads, and their scale and shift."""
    return layer.reads, layer.scale_1x1[layer.reads], layer.shift_1x1[layer.reads]


def _norm_3x3(layer: _Layer, y_KM: Tensor, eps: float) -> tuple[_Inner, Tensor]:
    """The batch norm before the 3x3 convolution, by channel, and the variance of the batch."""
    mean, variance = (of_rows[layer.row] for of_rows in kernels.row_statistics(y_KM))
    rstd = (variance + eps).rsqrt()
    scale = layer.scale_3x3 * rstd
    return _Inner(y_KM, mean, rstd, scale, layer.shift_3x3 - mean * scale), variance


def _backward_1x1(layer: _Layer, xhat_CM: Tensor, dxhat_CM: Tensor, dy_KM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of scale, shift and weights; that of the standardised features is added to ``dxhat_CM``."""
    of_scale_J, of_shift_J, of_weight = kernels.pointwise_backward(
        xhat_CM, *_inputs(layer), layer.weight_1x1, dy_KM, dxhat_CM
    )
    of_scale, of_shift = torch.zeros_like(layer.scale_1x1), torch.zeros_like(layer.shift_1x1)
    of_scale.index_add_(0, layer.reads, of_scale_J)
    of_shift.index_add_(0, layer.reads, of_shift_J)
    return of_scale, of_shift, of_weight


def _backward_3x3(
    size: Sequence[int], groups: int, layer: _Layer, inner: _Inner, new: tuple[Tensor, ...], dy_KM: Tensor
) -> tuple[Tensor, Tensor, None, Tensor]:
    """The gradients of scale, shift, (row,) and weights; ``dy_KM`` becomes that of the 1x1 convolution's output."""
    inputs = (inner.y_KM, layer.row, inner.scale, inner.shift, inner.mean, inner.rstd)
    dweight, dscale, dshift = kernels.conv3x3_backward(size, groups, inputs, layer.weight_3x3, new, dy_KM)
    pixels = dy_KM.shape[1]
    by_channel = torch.stack([inner.mean, inner.rstd, inner.scale, dshift / pixels, dscale / pixels])
    by_row = torch.empty_like(by_channel)
    by_row[:, layer.row] = by_channel
    kernels.norm_backward(dy_KM, inner.y_KM, *by_row.unbind())
    return dscale, dshift, None, dweight
