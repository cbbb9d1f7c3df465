"""CondenseNet, its light form, DenseNet-BC and DenseNet-121: one family, told apart by ``ModelConfig`` alone.

Paper: figure 4 and section 4.2; DenseNet (Huang et al., CVPR 2017): section 3.
Shapes: N images, H x W pixels; ``features`` grow by concatenation along the channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condensenet.config import ModelConfig
from condensenet.models.fused import can_fuse_block, can_fuse_pool, fused_average_pool, fused_dense_block
from condensenet.models.layers import (
    CondensedLinear,
    DenseLayer,
    Form,
    LearnedGroupConv,
    LearnedGroups,
    LearnedLinear,
    conv_1x1,
)


class DenseBlock(nn.Sequential):
    """Dense layers one after another; in training on a CPU all in one operation, where ``fused`` can do it."""

    def forward(self, features: Tensor) -> Tensor:
        layers = cast("list[DenseLayer]", list(self.children()))
        if self.training and all(type(layer) is DenseLayer for layer in layers) and can_fuse_block(layers, features):
            return fused_dense_block(layers, features)
        return super().forward(features)


class Transition(nn.Module):
    """Halve H and W by 2x2 average pooling; with ``config.reduction`` shrink the channels first."""

    def __init__(self, in_channels: int, config: ModelConfig, form: Form) -> None:
        super().__init__()
        out_channels = config.transition_channels(in_channels)
        self.conv_1x1 = None if config.reduction is None else conv_1x1(in_channels, out_channels, config, form, 0.0)

    def forward(self, features: Tensor) -> Tensor:
        if self.conv_1x1 is not None:
            features = self.conv_1x1(features)
        if self.training and can_fuse_pool(features):
            return fused_average_pool(features)
        return F.avg_pool2d(features, 2)


def _stem(config: ModelConfig) -> nn.Module:
    channels = config.stem_channels
    if config.stem == "densenet":
        return nn.Sequential(
            nn.Conv2d(config.in_channels, channels, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
    stride = 2 if config.stem == "imagenet" else 1
    return nn.Conv2d(config.in_channels, channels, 3, stride=stride, padding=1, bias=False)


def _classifier(config: ModelConfig, form: Form) -> nn.Module:
    inputs, outputs = config.num_features, config.num_classes
    if not config.condense_classifier:
        return nn.Linear(inputs, outputs)
    if form == "training":
        return LearnedLinear(inputs, outputs, num_condensing_stages=config.num_condensing_stages)
    return CondensedLinear(inputs, outputs)


class CondenseNet(nn.Module):
    """Images (N, config.in_channels, H, W) to logits (N, config.num_classes), for any H and W that leave a pixel.

    ``form="training"`` has full weights with masks, which ``condense_to`` drops by and by; ``form="grouped"`` is
    what ``convert`` makes of it: index layers and ordinary group convolutions.
    """

    def __init__(self, config: ModelConfig, form: Form = "training") -> None:
        super().__init__()
        if form not in ("training", "grouped"):
            raise ValueError(f"{form=} is not allowed: training or grouped")
        self.config = config
        self.form: Form = form
        self.stem = _stem(config)
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for block, (first, last) in enumerate(config.block_channels()):
            rate = config.growth_rates[block]
            self.blocks.append(
                DenseBlock(*(DenseLayer(width, rate, config, form) for width in range(first, last, rate)))
            )
            if block < len(config.block_depths) - 1:
                self.transitions.append(Transition(last, config, form))
        self.norm = nn.BatchNorm2d(config.num_features)
        self.classifier = _classifier(config, form)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for block, dense_block in enumerate(self.blocks):
            features = dense_block(features)
            if block < len(self.transitions):
                features = self.transitions[block](features)
        features = F.relu(self.norm(features), inplace=True)
        return self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))

    def learned_layers(self) -> Iterator[LearnedGroups]:
        """Every layer that condenses, in the order of the forward pass; none in grouped form."""
        return (module for _, module in self.places() if isinstance(module, LearnedGroups))

    def places(self) -> Iterator[tuple[str, nn.Module]]:
        """(place, module) of every 1x1 convolution and of the classifier, such as ("block 1, layer 2", ...)."""
        for block, dense_block in enumerate(self.blocks):
            for layer, dense_layer in enumerate(dense_block.children()):
                assert isinstance(dense_layer, DenseLayer)
                yield f"block {block + 1}, layer {layer + 1}", dense_layer.conv_1x1
            if block < len(self.transitions):
                transition = self.transitions[block]
                assert isinstance(transition, Transition)
                if transition.conv_1x1 is not None:
                    yield f"transition {block + 1}", transition.conv_1x1
        yield "classifier", self.classifier

    @property
    def num_condensing_stages(self) -> int:
        return self.config.num_condensing_stages

    @property
    def condensing_stage(self) -> int:
        """How many condensing stages are done: 0 at the start, ``num_condensing_stages`` in the end."""
        return min((layer.condensing_stage for layer in self.learned_layers()), default=self.num_condensing_stages)

    @property
    def is_condensed(self) -> bool:
        """Whether every drop is done. From then on group lasso has no place in the loss."""
        return self.condensing_stage == self.num_condensing_stages

    def condense_to(self, condensing_stage: int) -> None:
        """Do every drop up to ``condensing_stage`` that is not yet done; nothing if there is none.

        Raises ``ValueError`` for a condensing stage below the present one or above ``num_condensing_stages``.
        """
        present, last = self.condensing_stage, self.num_condensing_stages
        if not present <= condensing_stage <= last:
            raise ValueError(f"{condensing_stage=} is not allowed: the model is at {present} of {last}")
        for layer in self.learned_layers():
            layer.condense_to(condensing_stage)


def group_lasso(model: nn.Module) -> Tensor:
    """The group lasso of every learned group convolution of ``model``, a scalar; 0 if there is none.

    It is the value itself, whatever the condensing stage: a loss adds it while ``not model.is_condensed``, that is
    through the last condensing stage and not in the optimisation stage. As in the authors' code, dropped connections
    have no gradient but add a constant 1e-3 each, and a condensed classifier has no part in it.
    """
    layers = [module for module in model.modules() if isinstance(module, LearnedGroupConv)]
    if not layers:
        return torch.zeros(())
    return torch.stack([layer.lasso() for layer in layers]).sum()


def initialise(model: nn.Module) -> None:
    """The authors' initial weights, from torch's global random state.

    Convolutions: normal with standard deviation sqrt(2 / (k * k * outputs)); batch norms: scale 1, shift 0; linear
    layers: torch's own weights, bias 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, std=sqrt(2 / (height * width * module.out_channels)))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
