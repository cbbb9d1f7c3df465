"""Compiled CPU kernels for training a dense block in float32. They are optional; PyTorch can do the same, slower.

``models/fused/conditions.py`` decides when they are used. They are built with the package if there is a C compiler. The
environment variable ``CONDENSENET_KERNELS=off`` disables them. With the same number of threads and lanes they give the
same bits in every run.

Shapes: C channels, M = N * H * W pixels of a batch, J selected channels. A planar matrix (C, M) is contiguous, one row
per channel, image after image. A 3x3 convolution has K inputs and k outputs, all G groups together.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
from collections.abc import Sequence

import torch
from torch import Tensor

from condensenet import compiled

SWITCH = "CONDENSENET_KERNELS"
_threads_used: set[int] = set()  # by this process, in calls of the kernels


def _after_fork() -> None:
    """OpenMP's threads do not outlive a fork, and neither the kernels nor PyTorch could wait for them: one must do."""
    if max(_threads_used, default=1) > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def available() -> bool:
    """Whether the kernels are built and in use. Raises ``ValueError`` if the environment variable has another value."""
    switch = os.environ.get(SWITCH, "on")
    if switch not in ("on", "off"):
        raise ValueError(f"{SWITCH}={switch} is not allowed: on or off")
    return switch == "on" and _library() is not None


@functools.cache
def _library() -> ctypes.CDLL | None:
    return compiled.load("condensenet.models.kernels._compiled")


def lanes() -> int | None:
    """How many floats the kernels' vectors hold on this CPU: 16, 8 or 4; None if the kernels are not in use.

    Weights trained with another number differ in their last bits. ``CONDENSENET_LANES`` asks for fewer.
    """
    compiled.check_lanes()
    return _lanes_of(_library()) if available() else None


def _lanes_of(library: ctypes.CDLL | None) -> int:
    assert library is not None
    return int(library.lanes())


def instruction_set() -> str:
    """The instruction set behind ``lanes``."""
    names = {16: "AVX-512", 8: "AVX2", 4: "SSE2" if platform.machine() in ("x86_64", "AMD64") else "NEON"}
    width = lanes()
    return "none" if width is None else names[width]


def pointwise(x_CM: Tensor, index_J: Tensor, scale_J: Tensor, shift_J: Tensor, weight_GKR: Tensor) -> Tensor:
    """(G * K, M): weight[g] @ relu(scale * x[index] + shift) of the R inputs of each group; J = G * R."""
    groups, outputs, inputs = weight_GKR.shape
    weight_GRK = weight_GKR.transpose(1, 2).contiguous()
    y_KM = x_CM.new_empty(groups * outputs, x_CM.shape[1])
    _call("pointwise", groups, outputs, inputs, x_CM.shape[1], x_CM, index_J, scale_J, shift_J, weight_GRK, y_KM)
    return y_KM


def pointwise_backward(
    x_CM: Tensor,
    index_J: Tensor,
    scale_J: Tensor,
    shift_J: Tensor,
    weight_GKR: Tensor,
    dy_KM: Tensor,
    dx_CM: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``scale`` (J,), ``shift`` (J,) and ``weight``; adds that of x to ``dx_CM``."""
    dweight = torch.empty(weight_GKR.shape, dtype=torch.float64)
    sums_J2 = torch.empty(len(index_J), 2, dtype=torch.float64)
    arguments = (x_CM, index_J, scale_J, shift_J, weight_GKR, dy_KM, dx_CM, dweight, sums_J2)
    _call("pointwise_backward", *weight_GKR.shape, x_CM.shape[1], *arguments)
    return sums_J2[:, 1].float(), sums_J2[:, 0].float(), dweight.float()


def row_statistics(x_CM: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (divided by M, not M - 1) of every row."""
    mean, variance = x_CM.new_empty(2, len(x_CM))
    _call("row_statistics", *x_CM.shape, x_CM, mean, variance)
    return mean, variance


def standardise(x_CM: Tensor, mean_C: Tensor, rstd_C: Tensor, out_CM: Tensor) -> None:
    """out = (x - mean) * rstd."""
    _call("standardise", *x_CM.shape, x_CM, mean_C, rstd_C, out_CM)


def norm_backward(
    gradient_CM: Tensor,
    x_CM: Tensor,
    mean_C: Tensor,
    rstd_C: Tensor,
    scale_C: Tensor,
    mean_g_C: Tensor,
    mean_gx_C: Tensor,
) -> None:
    """In place: scale * (gradient - mean_g - (x - mean) * rstd * mean_gx), where scale includes rstd."""
    _call("norm_backward", *x_CM.shape, x_CM, mean_C, rstd_C, scale_C, mean_g_C, mean_gx_C, gradient_CM)


def feature_gradient(
    xhat_CM: Tensor, dxhat_CM: Tensor, gradient_CM: Tensor, rstd_C: Tensor, mean_g_C: Tensor, mean_gx_C: Tensor
) -> Tensor:
    """gradient + rstd * (dxhat - mean_g - xhat * mean_gx): backward through the statistics to the features."""
    out_CM = torch.empty_like(xhat_CM)
    _call("feature_gradient", *out_CM.shape, xhat_CM, dxhat_CM, gradient_CM, rstd_C, mean_g_C, mean_gx_C, out_CM)
    return out_CM


def average_pool(x: Tensor) -> Tensor:
    """2x2 average pooling of contiguous planes (..., H, W); an odd last row or column is ignored."""
    *planes, height, width = x.shape
    out = x.new_empty(*planes, height // 2, width // 2)
    _call("average_pool", math.prod(planes), height, width, x, out)
    return out


def average_pool_backward(gradient: Tensor, size: Sequence[int]) -> Tensor:
    """The gradient of the input planes, of ``size`` (H, W)."""
    dx = gradient.new_empty(*gradient.shape[:-2], *size)
    _call("average_pool_backward", math.prod(dx.shape[:-2]), *size, gradient, dx)
    return dx


def conv3x3(
    size: Sequence[int],
    groups: int,
    y_KM: Tensor,
    row_K: Tensor,
    scale_K: Tensor,
    shift_K: Tensor,
    weight: Tensor,
    out_kM: Tensor,
) -> None:
    """out = 3x3 group convolution with padding 1 of relu(scale * y[row] + shift); ``size`` is (N, H, W)."""
    channels = (len(row_K), len(out_kM), groups)
    _call("conv3x3", *size, *channels, y_KM, row_K, scale_K, shift_K, weight, out_kM)


class _Backward(ctypes.Structure):
    """``backward_arguments`` in the C source."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in [
            "y",
            "scale",
            "shift",
            "mean",
            "rstd",
            "w",
            "row",
            "xhat",
            "dxhat",
            "dout",
            "out_rstd",
            "mean_g",
            "mean_gx",
            "dy",
        ]
    ]


def conv3x3_backward(
    size: Sequence[int],
    groups: int,
    inputs: Sequence[Tensor],
    weight: Tensor,
    outputs: Sequence[Tensor],
    dy_KM: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``weight`` and of the norm's scale and shift (K,), as applied to the normalised y.

    ``inputs`` are (y, row, scale, shift, mean, rstd) as for ``conv3x3``; ``outputs`` are the arguments of
    ``feature_gradient`` for the k outputs. ``dy_KM`` becomes the gradient of the ReLU's input, in y's order.
    """
    y_KM, row_K, *norm = inputs
    count, k = len(row_K), len(outputs[0])
    arguments = _Backward(*(_address(tensor) for tensor in (y_KM, *norm, weight, row_K, *outputs, dy_KM)))
    weight_by_input = weight.view(groups, k // groups, count // groups, 9).transpose(1, 2).contiguous()
    dweight = torch.empty(weight.shape, dtype=torch.float64)
    sums_K2 = torch.empty(count, 2, dtype=torch.float64)
    _call("conv3x3_backward", *size, count, k, groups, ctypes.byref(arguments), weight_by_input, dweight, sums_K2)
    return dweight.float(), sums_K2[:, 1].float(), sums_K2[:, 0].float()


def _call(name: str, *arguments: object) -> None:
    library = _library()
    _threads_used.update([torch.get_num_threads()])
    function = getattr(library, f"{name}_{_lanes_of(library)}")
    function(ctypes.c_int(torch.get_num_threads()), *(_as_c(argument) for argument in arguments))


def _as_c(value: object) -> object:
    if isinstance(value, Tensor):
        return _address(value)
    return ctypes.c_long(value) if isinstance(value, int) else value


def _address(tensor: Tensor) -> ctypes.c_void_p:
    assert tensor.is_contiguous(), "the kernels take contiguous tensors only"
    return ctypes.c_void_p(tensor.data_ptr())
