"""How MACs, the paper's FLOPs and parameters are counted: one pure function per operator, and a table of them.

The convention:

- ``macs``: multiply-adds of convolutions and linear layers, without biases; one MAC = one multiply-add.
- ``paper_flops``: the authors' count: the MACs, plus the biases of linear layers, plus one per element of every
  activation function, plus the operations of average pools (kernel area per output; one per input of a global one).
- ``params``: trainable parameters, no buffers.
- Batch norms, max pools, biases of convolutions, element-wise sums and products, concatenation, gathering and
  reshaping count as zero, as the authors have it.
- The training form counts as fully pruned at every condensing stage: 1/C of each learned layer's weights.

The network runs once on an image of zeros, and every operator that runs is looked up, including those outside any
module. An operator that is not in the table is an error, not a guess. Source: the authors' ``utils.py``, whose figures
are matched to the digit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from condensenet.models.layers import LearnedGroups
from condensenet.models.shapes import image_shape

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """Per image. Networks are compared by ``macs`` and ``params``; ``paper_flops`` is what the paper prints."""

    macs: int
    paper_flops: int
    params: int


@dataclass(frozen=True)
class Operations:
    """Of one operator: multiply-adds, and the other operations that the paper counts."""

    macs: int = 0
    others: int = 0


def count_cost(model: nn.Module, input_size: int | Sequence[int]) -> Cost:
    """The cost of ``model`` for one image of ``input_size`` pixels, H = W or (H, W). ``model`` is not changed.

    Raises ``ValueError`` for a size that is not allowed or too small, and for operators that cannot be counted.
    """
    shape = image_shape(model, input_size)
    duplicate = copy.deepcopy(model).eval()
    weight = next(duplicate.parameters())
    image = torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)
    counter = _Counter()
    with torch.no_grad(), _final_density(duplicate, counter), counter:
        _run(duplicate, image)
    if counter.unknown:
        raise ValueError(f"operators that cannot be counted: {', '.join(sorted(counter.unknown))}")
    return Cost(counter.macs, counter.macs + counter.others, count_params(model))


def _run(model: nn.Module, image: Tensor) -> None:
    try:
        model(image)
    except RuntimeError as error:
        height, width = image.shape[2:]
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{type(model).__name__} takes no image of {height}x{width} pixels: {reason}") from None


def count_params(model: nn.Module) -> int:
    """Parameters, of a learned layer's weights only the 1/C that remain after pruning. Shared ones count once."""
    learned = {
        id(module.full_weight): module.condensation_factor
        for module in model.modules()
        if isinstance(module, LearnedGroups)
    }
    return sum(value.numel() // learned.get(id(value), 1) for value in model.parameters())


def convolution(inputs: Sequence[Any], output: Tensor) -> Operations:
    """(x, weight (O, I / groups, kernel...), ...): every output element takes I / groups * kernel multiply-adds."""
    if inputs[6]:
        raise ValueError("a transposed convolution cannot be counted")
    return Operations(macs=output.numel() * prod(inputs[1].shape[1:]))


def linear(inputs: Sequence[Any], output: Tensor) -> Operations:
    """(bias, x (N, I), weight (I, O)): N * I * O multiply-adds and the bias once per output."""
    return Operations(macs=output.numel() * inputs[1].shape[-1], others=output.numel())


def matrix_product(inputs: Sequence[Any], output: Tensor) -> Operations:
    """(a (..., I), b (..., I, O)): a linear layer without bias."""
    return Operations(macs=output.numel() * inputs[0].shape[-1])


def activation(inputs: Sequence[Any], output: Tensor) -> Operations:
    """One operation per element, whatever the function."""
    return Operations(others=output.numel())


def average_pool(inputs: Sequence[Any], output: Tensor) -> Operations:
    """(x, kernel, ...): the kernel's area per output element."""
    return Operations(others=output.numel() * prod(inputs[1]) ** (2 // len(inputs[1])))


def global_average(inputs: Sequence[Any], output: Tensor) -> Operations:
    """(x, ...): one per input element."""
    return Operations(others=inputs[0].numel())


Rule = Callable[[Sequence[Any], Tensor], Operations]

RULES: Mapping[Any, Rule] = {
    aten.convolution: convolution,
    aten.addmm: linear,
    aten.mm: matrix_product,
    aten.bmm: matrix_product,
    aten.avg_pool2d: average_pool,
    aten._adaptive_avg_pool2d: global_average,
    aten.mean: global_average,
    **dict.fromkeys(
        (
            aten.relu,
            aten.relu_,
            aten.hardtanh,  # ReLU6
            aten.hardtanh_,
            aten.hardswish,
            aten.hardswish_,
            aten.hardsigmoid,
            aten.hardsigmoid_,
            aten.sigmoid,
            aten.sigmoid_,
            aten.silu,
            aten.silu_,
        ),
        activation,
    ),
}

UNCOUNTED = {
    aten._native_batch_norm_legit_no_training,
    aten.native_batch_norm,
    aten.cudnn_batch_norm,
    aten.max_pool2d_with_indices,
    aten.add,
    aten.add_,
    aten.mul,
    aten.mul_,
    aten.cat,
    aten.index_select,
    aten.split,
    aten.split_with_sizes,
    aten.view,
    aten._unsafe_view,
    aten.reshape,
    aten._reshape_alias,
    aten.transpose,
    aten.permute,
    aten.t,
    aten.unsqueeze,
    aten.squeeze,
    aten.expand,
    aten.slice,
    aten.select,
    aten.clone,
    aten.detach,
    aten.alias,
    aten.empty,
    aten._to_copy,
}


class _Counter(TorchDispatchMode):
    """Sums the operations of all operators that run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.others = 0
        self.unknown: set[str] = set()
        self.condensation_factor = 1  # of the learned layer that is running

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch._dynamo: 3 s in every process that counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        rule = RULES.get(func.overloadpacket)
        if rule is not None:
            operations = rule(args, output)
            self.macs += operations.macs // self.condensation_factor
            self.others += operations.others
        elif func.overloadpacket not in UNCOUNTED:
            self.unknown.add(str(func))
        return output


@contextmanager
def _final_density(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Give the counter the condensation factor C of the learned layer that is running: its final density is 1/C."""

    def enter(module: nn.Module, _inputs: Any) -> None:
        assert isinstance(module, LearnedGroups)
        counter.condensation_factor = module.condensation_factor

    def leave(*_: Any) -> None:
        counter.condensation_factor = 1

    layers = [module for module in model.modules() if isinstance(module, LearnedGroups)]
    hooks = [module.register_forward_pre_hook(enter) for module in layers]
    hooks += [module.register_forward_hook(leave) for module in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
