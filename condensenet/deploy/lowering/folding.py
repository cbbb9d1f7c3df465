"""Folding of batch norm and ReLU into a convolution: pure functions on arrays, exact except for rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from condensenet.deploy.lowering.network import Array, Pointwise

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False, kw_only=True)
class Clamped:
    """A 1x1 group convolution whose inputs are only clamped: y = W clip(x[index], low, high) + bias, by groups.

    For every input, low is -inf or high is +inf. Shapes as in ``Pointwise``; ``bias`` (O,) is in the order of
    ``weight``, before the channel shuffle.
    """

    low: Array  # (G * R,)
    high: Array  # (G * R,)
    weight: Array  # (O, R)
    bias: Array  # (O,)


def fold_clamp(conv: Pointwise) -> Clamped:
    """relu(s x + b) = s max(x, -b/s) + b for s > 0, s min(x, -b/s) + b for s < 0, relu(b) for s = 0.

    So W relu(s x + b) = (W s) clip(x) + W b', with b' = b, or relu(b) where s is 0 or too small for -b/s to be a
    float32. This holds for a 1x1 convolution alone: padding would have to be relu(b) instead of 0.
    """
    scale, shift = conv.scale, conv.shift
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bound = -shift / scale
    constant = ~(np.abs(bound) < LARGEST)  # also for 0 / 0
    slope = np.where(constant, 0, scale)
    offset = np.where(constant, np.maximum(shift, 0), shift)
    weight_GOR = conv.weight.reshape(conv.groups, -1, conv.weight.shape[1])
    by_group = (conv.groups, 1, -1)
    return Clamped(
        low=np.where(~constant & (scale > 0), bound, -np.inf),
        high=np.where(~constant & (scale < 0), bound, np.inf),
        weight=(weight_GOR * slope.reshape(by_group)).reshape(conv.weight.shape),
        bias=(weight_GOR * offset.reshape(by_group)).sum(axis=2).ravel(),
    )


def fold_after(weight: Array, bias: Array, scale: Array, shift: Array) -> tuple[Array, Array]:
    """scale (W x + bias) + shift = (scale W) x + (scale bias + shift); per output, (O,) or (O, ...)."""
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias * scale + shift
