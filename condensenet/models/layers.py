"""Learned group convolutions in training and in deployment.

In training form (``LearnedGroupConv``, ``LearnedLinear``) they have full weights and a mask. In grouped form
(``CondensedGroupConv``, ``CondensedLinear``) an index gathers the kept inputs for an ordinary (group) operation.

Shapes: N images, O outputs, I inputs, G groups, K = O / G outputs per group, R = I / C inputs that a group keeps in the
end (C: condensation factor), H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from condensenet.config import ModelConfig
from condensenet.models import condensing

Form = Literal["training", "grouped"]


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the groups of (N, O, H, W) channels: channel g * K + k becomes k * G + g."""
    if groups == 1:
        return x
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def relu_of(norm: nn.Module, x: Tensor) -> Tensor:
    """ReLU of the output ``x`` of ``norm``, in place unless a backward hook watches that output."""
    watched = norm._backward_hooks or norm._backward_pre_hooks or _has_any_global_hook()
    return F.relu(x, inplace=torch.compiler.is_compiling() or not watched)


class NormReluConv(nn.Module):
    """Batch norm, ReLU, convolution without bias, padded to keep H x W."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, groups: int = 1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(relu_of(self.norm, self.norm(x)))


class LearnedGroups(nn.Module):
    """A layer that condenses: full weights, a mask of the kept connections, and the schedule of drops.

    ``dropped_by_stage[s]`` is the number of inputs that each group has dropped after condensing stage s; entry 0 is 0.
    The only state is the mask, a buffer ``group_mask`` (G, I), True for kept, so loading a state dict also restores the
    condensing stage. Forward passes never change it.
    """

    group_mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, groups: int, dropped_by_stage: Sequence[int]) -> None:
        super().__init__()
        if out_channels % groups:
            raise ValueError(f"{out_channels=} is not divisible by {groups=}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.dropped_by_stage = tuple(dropped_by_stage)
        self.register_buffer("group_mask", torch.ones(groups, in_channels, dtype=torch.bool))
        self.num_dropped = 0  # per group, as in the mask; a copy, because reading the mask would wait for the GPU
        self.register_load_state_dict_post_hook(LearnedGroups._after_load)

    @property
    def full_weight(self) -> Tensor:
        """The trained weights (O, I, ...), including dropped ones, whose values have no effect."""
        raise NotImplementedError

    @property
    def condensation_factor(self) -> int:
        """C: each group finally keeps 1/C of the inputs."""
        return self.in_channels // (self.in_channels - self.dropped_by_stage[-1])

    @property
    def mask(self) -> Tensor:
        """The mask in the shape of the weights, (O, I, ...), boolean, True for kept."""
        mask_OI = self.group_mask.repeat(self.out_channels // self.groups, 1)
        return mask_OI.reshape(self.full_weight.shape)

    @property
    def condensing_stage(self) -> int:
        """The last condensing stage whose drops are done."""
        return max(stage for stage, dropped in enumerate(self.dropped_by_stage) if dropped <= self.num_dropped)

    @property
    def is_condensed(self) -> bool:
        return self.num_dropped == self.dropped_by_stage[-1]

    def condense_to(self, condensing_stage: int) -> None:
        """Do all outstanding drops up to this condensing stage, including those of skipped stages."""
        n_drop = self.dropped_by_stage[condensing_stage] - self.num_dropped
        if n_drop > 0:
            self.set_mask(condensing.drop_mask(self.group_mask, self.full_weight, n_drop))

    def condense_at_random(self, generator: torch.Generator) -> None:
        """Keep the final number of inputs in each group, chosen at random."""
        kept = self.in_channels - self.dropped_by_stage[-1]
        self.set_mask(condensing.random_mask(self.in_channels, self.groups, kept, generator))

    def set_mask(self, mask: Tensor) -> None:
        """Set the (G, I) mask; raises ``ValueError`` if the groups do not all keep the same number of inputs."""
        shape = tuple(self.group_mask.shape)
        if tuple(mask.shape) != shape:
            raise ValueError(f"a mask of shape {tuple(mask.shape)} is not allowed: it must be {shape}")
        self.num_dropped = self._count_dropped(mask)
        self.group_mask.copy_(mask)

    def kept_inputs(self) -> Tensor:
        """(G, R) indices of the inputs that each group keeps, ascending."""
        return self.group_mask.nonzero()[:, 1].reshape(self.groups, -1)

    def weight_in_use(self) -> Tensor:
        """The weights with zero for every dropped connection."""
        if not torch.compiler.is_compiling() and self.num_dropped == 0:  # compiled code serves all condensing stages
            return self.full_weight
        return condensing.masked_weight(self.full_weight, self.group_mask)

    def lasso(self) -> Tensor:
        return condensing.lasso(self.weight_in_use(), self.groups)

    def _count_dropped(self, mask: Tensor) -> int:
        kept = mask.sum(dim=1).tolist()
        if len(set(kept)) != 1:
            raise ValueError(f"a mask that keeps {kept} inputs per group is not allowed: the numbers must be equal")
        return self.in_channels - int(kept[0])

    @staticmethod
    def _after_load(module: nn.Module, _keys: object) -> None:
        assert isinstance(module, LearnedGroups)
        module.num_dropped = module._count_dropped(module.group_mask)


class LearnedGroupConv(LearnedGroups):
    """Batch norm, ReLU, dropout, 1x1 convolution whose G groups of filters learn which 1/C of the inputs to keep.

    ``num_condensing_stages`` is the network's (default: C - 1); all drops are done after the first C - 1 of them.
    Raises ``ValueError`` if G or C does not divide the input channels, or G the output channels. Paper: section 4.1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        condensation_factor: int,
        dropout: float = 0.0,
        num_condensing_stages: int | None = None,
    ) -> None:
        for name, value in (("groups", groups), ("condensation_factor", condensation_factor)):
            if in_channels % value:
                raise ValueError(f"{in_channels=} is not divisible by {name}={value}")
        stages = condensation_factor - 1 if num_condensing_stages is None else num_condensing_stages
        step = in_channels // condensation_factor
        drops = [step * min(stage, condensation_factor - 1) for stage in range(stages + 1)]
        super().__init__(in_channels, out_channels, groups, drops)
        self.norm = nn.BatchNorm2d(in_channels)
        self.dropout = dropout
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    @property
    def full_weight(self) -> Tensor:
        return self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        x = relu_of(self.norm, self.norm(x))
        if self.dropout > 0:
            x = F.dropout(x, self.dropout, self.training)
        return F.conv2d(x, self.weight_in_use())


class LearnedLinear(LearnedGroups):
    """A linear layer that keeps 1/C of its inputs; all others are dropped in the network's last condensing stage.

    The paper condenses the ImageNet classifier in this way, with G = 1 and C = 2. Raises ``ValueError`` if C does not
    divide the inputs.
    """

    def __init__(
        self, in_features: int, out_features: int, *, num_condensing_stages: int, condensation_factor: int = 2
    ) -> None:
        if in_features % condensation_factor:
            raise ValueError(f"{in_features=} is not divisible by {condensation_factor=}")
        drops = [0] * num_condensing_stages + [in_features - in_features // condensation_factor]
        super().__init__(in_features, out_features, 1, drops)
        self.linear = nn.Linear(in_features, out_features)

    @property
    def full_weight(self) -> Tensor:
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_in_use(), self.linear.bias)


class CondensedGroupConv(nn.Module):
    """The index layer (gathers each group's kept inputs), batch norm, ReLU, 1x1 group convolution, channel shuffle."""

    index: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, groups: int, condensation_factor: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.groups = groups
        gathered = groups * (in_channels // condensation_factor)  # G * R
        self.register_buffer("index", torch.arange(gathered) % in_channels)
        self.norm = nn.BatchNorm2d(gathered)
        self.conv = nn.Conv2d(gathered, out_channels, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.index_select(1, self.index)
        x = self.conv(relu_of(self.norm, self.norm(x)))
        return channel_shuffle(x, self.groups)


class CondensedLinear(nn.Module):
    """Gathers the kept inputs for an ordinary linear layer."""

    index: Tensor

    def __init__(self, in_features: int, out_features: int, *, condensation_factor: int = 2) -> None:
        super().__init__()
        self.in_features = in_features
        self.register_buffer("index", torch.arange(in_features // condensation_factor))
        self.linear = nn.Linear(in_features // condensation_factor, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.index_select(1, self.index))


def conv_1x1(in_channels: int, out_channels: int, config: ModelConfig, form: Form, dropout: float) -> nn.Module:
    """Batch norm, ReLU and the 1x1 convolution of ``config`` in the given form."""
    groups, factor = config.groups_1x1, config.condensation_factor
    if form == "training":
        return LearnedGroupConv(
            in_channels,
            out_channels,
            groups=groups,
            condensation_factor=factor,
            dropout=dropout,
            num_condensing_stages=config.num_condensing_stages,
        )
    if factor == 1:  # every group reads every input, so there is nothing to gather
        return NormReluConv(in_channels, out_channels, 1)
    return CondensedGroupConv(in_channels, out_channels, groups=groups, condensation_factor=factor)


class DenseLayer(nn.Module):
    """1x1 learned group convolution, then 3x3 group convolution; appends its growth_rate features to its input."""

    def __init__(self, in_channels: int, growth_rate: int, config: ModelConfig, form: Form) -> None:
        super().__init__()
        width = config.bottleneck * growth_rate
        self.conv_1x1 = conv_1x1(in_channels, width, config, form, config.dropout)
        self.conv_3x3 = NormReluConv(width, growth_rate, 3, groups=config.groups_3x3)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features, self.conv_3x3(self.conv_1x1(features))], dim=1)
