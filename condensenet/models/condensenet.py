"""CondenseNet, its light variant, DenseNet-BC and DenseNet-121: one family that differs only in its ``ModelConfig``.

Paper: figure 4 and section 4.2; DenseNet (Huang et al., CVPR 2017): section 3.
Shapes: N images, C channels, H x W pixels; ``features`` are (N, C, H, W), and C grows by concatenation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any, NoReturn, cast

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
    relu_of,
)
from condensenet.preprocessing import Preprocessing


class DenseBlock(nn.Sequential):
    """A sequence of dense layers, fused into one operation in training on a CPU where possible (see ``fused``)."""

    def forward(self, features: Tensor) -> Tensor:
        layers = cast("list[DenseLayer]", list(self.children()))
        if self.training and all(type(layer) is DenseLayer for layer in layers) and can_fuse_block(layers, features):
            return fused_dense_block(layers, features)
        return super().forward(features)


class Transition(nn.Module):
    """Halves H and W by 2x2 average pooling; with ``config.reduction``, first reduces the channels."""

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
            nn.ReLU(),  # in place it would break under a backward hook
            nn.MaxPool2d(3, stride=2, padding=1),
        )
    return nn.Conv2d(config.in_channels, channels, 3, stride=config.stem_reduction, padding=1, bias=False)


def _classifier(config: ModelConfig, form: Form) -> nn.Module:
    inputs, outputs = config.num_features, config.num_classes
    if outputs == 0:
        return nn.Identity()
    if not config.condense_classifier:
        return nn.Linear(inputs, outputs)
    if form == "training":
        return LearnedLinear(inputs, outputs, num_condensing_stages=config.num_condensing_stages)
    return CondensedLinear(inputs, outputs)


class CondenseNet(nn.Module):
    """Images (N, config.in_channels, H, W) to logits (N, config.num_classes), for any H and W that leave a pixel.

    ``form="training"`` has full weights and masks, from which ``condense_to`` gradually drops connections.
    ``form="grouped"`` is what ``convert`` turns it into: index layers and ordinary group convolutions. Raises
    ``ValueError`` for any other form.

    It can be used as timm's networks are: ``forward_features``, ``forward_head``, ``forward_intermediates``,
    ``reset_classifier``, ``num_features`` and ``feature_info``. With ``num_classes=0`` there is no classifier, and
    the output is (N, ``num_features``); after ``reset_classifier(0, "")`` it is that of ``forward_features``, which
    files do not keep. ``preprocessing`` says what images and class names the weights belong to, if that is known;
    files keep it.

    ``torch.compile``, ``torch.export``, ``torch.jit.trace``, ``copy.deepcopy``, channels last and frozen parameters
    work; ``torch.jit.script`` does not. Hooks are called, except on the convolution inside a learned layer of the
    training form, which the layer replaces by one with its masked weight.
    """

    def __init__(self, config: ModelConfig, form: Form = "training") -> None:
        super().__init__()
        if form not in ("training", "grouped"):
            raise ValueError(f"{form=} is not allowed: training or grouped")
        self.config = config
        self.form: Form = form
        self.global_pool = "avg"
        self.preprocessing: Preprocessing | None = None
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
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The features before pooling, after the last batch norm and ReLU: (N, num_features, h, w)."""
        features = self.stem(images)
        for block, dense_block in enumerate(self.blocks):
            features = dense_block(features)
            if block < len(self.transitions):
                features = self.transitions[block](features)
        return relu_of(self.norm, self.norm(features))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (N, num_classes) of what ``forward_features`` gives; ``pre_logits``: pooled (N, num_features)."""
        pooled = F.adaptive_avg_pool2d(features, 1).flatten(1) if self.global_pool else features
        return pooled if pre_logits else self.classifier(pooled)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of dense blocks for images ``x``: (final features, list); with ``intermediates_only`` the list.

        ``indices`` chooses blocks: None for all, a number for the last so many, or a list, from 0 and in any order,
        negative ones from the end; the list comes in the order of the blocks. ``norm`` applies the last batch norm and
        ReLU to the last block's output. ``stop_early`` skips the blocks after the last one chosen, and needs
        ``intermediates_only``. ``feature_info`` has the channels and strides. Raises ``ValueError``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"{output_fmt=} is not allowed: NCHW")
        if stop_early and not intermediates_only:
            raise ValueError("stop_early=True is not allowed without intermediates_only=True: later blocks are needed")
        chosen = self._chosen_blocks(indices)
        features, outputs, last = self.stem(x), [], len(self.blocks) - 1
        for block, dense_block in enumerate(self.blocks):
            features = dense_block(features)
            if block in chosen:
                outputs.append(F.relu(self.norm(features)) if norm and block == last else features)
            if stop_early and block >= max(chosen, default=-1):
                break
            if block < last:
                features = self.transitions[block](features)
        return outputs if intermediates_only else (F.relu(self.norm(features)), outputs)

    def _chosen_blocks(self, indices: int | Sequence[int] | None) -> set[int]:
        count = len(self.blocks)
        if indices is None:
            return set(range(count))
        if isinstance(indices, int):
            if not 0 < indices <= count:
                raise ValueError(f"{indices=} is not allowed: there are {count} blocks")
            return set(range(count - indices, count))
        if not all(-count <= index < count for index in indices):
            raise ValueError(f"indices={list(indices)} is not allowed: there are {count} blocks")
        return {index % count for index in indices}

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def in_chans(self) -> int:
        """Channels of an image, by timm's name."""
        return self.config.in_channels

    @property
    def num_features(self) -> int:
        """The number of pooled features, which the classifier reads."""
        return self.config.num_features

    @property
    def head_hidden_size(self) -> int:
        """As ``num_features``: nothing lies between pooling and classifier."""
        return self.config.num_features

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Of every block's output: ``num_chs`` channels, ``reduction`` of height and width, and the ``module``."""
        return [
            {"num_chs": channels, "reduction": self.config.stem_reduction * 2**block, "module": f"blocks.{block}"}
            for block, (_, channels) in enumerate(self.config.block_channels())
        ]

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new, untrained classifier in place; ``num_classes=0`` removes it, and ``global_pool=""`` the pooling.

        In training form a condensed classifier is condensed again by further training; in grouped form the new one
        reads every feature. The names of the classes in ``preprocessing`` are forgotten. ``global_pool=None`` leaves
        the pooling as it is, but a classifier brings it back. Raises ``ValueError`` for any other than ``avg`` and "",
        and for "" with a classifier.
        """
        unchanged = self.global_pool if num_classes == 0 else "avg"
        pool = unchanged if global_pool is None else global_pool
        if pool not in ("avg", ""):
            raise ValueError(f"global_pool={pool!r} is not allowed: the network has average pooling (avg)")
        if pool == "" and num_classes > 0:
            raise ValueError(f"global_pool='' is not allowed with {num_classes=}: a classifier needs avg")
        condense = self.config.condense_classifier and self.form == "training"
        self.config = dataclasses.replace(self.config, num_classes=num_classes, condense_classifier=condense)
        self.global_pool = pool
        weight = next(self.parameters())
        self.classifier = _classifier(self.config, self.form).to(weight.device, weight.dtype).train(self.training)
        initialise(self.classifier)
        if self.preprocessing is not None:
            self.preprocessing = dataclasses.replace(self.preprocessing, classes=())

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions by which timm's optimizers tell the depth of a parameter."""
        layers = r"^blocks\.(\d+)" if coarse else [(r"^blocks\.(\d+)\.(\d+)", None), (r"^transitions\.(\d+)", (99998,))]
        return {"stem": r"^stem", "blocks": layers}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Not supported: raises ``ValueError`` if ``enable``."""
        if enable:
            raise ValueError("gradient checkpointing is not supported by CondenseNet")

    def __prepare_scriptable__(self) -> NoReturn:
        """What ``torch.jit.script`` calls first: it cannot compile the blocks, and would say so in 40 lines."""
        raise TypeError("torch.jit.script cannot compile a CondenseNet: use torch.jit.trace or torch.export")

    def learned_layers(self) -> Iterator[LearnedGroups]:
        """All layers that condense, in the order of the forward pass; none in grouped form."""
        return (module for _, module in self.named_layers() if isinstance(module, LearnedGroups))

    def named_layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Every 1x1 convolution and the classifier with a readable name, such as ("block 1, layer 2", ...)."""
        for block, dense_block in enumerate(self.blocks):
            for layer, dense_layer in enumerate(dense_block.children()):
                assert isinstance(dense_layer, DenseLayer)
                yield f"block {block + 1}, layer {layer + 1}", dense_layer.conv_1x1
            if block < len(self.transitions):
                transition = self.transitions[block]
                assert isinstance(transition, Transition)
                if transition.conv_1x1 is not None:
                    yield f"transition {block + 1}", transition.conv_1x1
        if self.config.num_classes > 0:
            yield "classifier", self.classifier

    @property
    def num_condensing_stages(self) -> int:
        return self.config.num_condensing_stages

    @property
    def condensing_stage(self) -> int:
        """The number of condensing stages done: 0 at the start, ``num_condensing_stages`` at the end."""
        return min((layer.condensing_stage for layer in self.learned_layers()), default=self.num_condensing_stages)

    @property
    def is_condensed(self) -> bool:
        """Whether all drops are done. From then on the loss has no group lasso term."""
        return self.condensing_stage == self.num_condensing_stages

    def condense_to(self, condensing_stage: int) -> None:
        """Do all outstanding drops up to ``condensing_stage``, if any.

        Raises ``ValueError`` for a condensing stage below the current one or above ``num_condensing_stages``.
        """
        current, last = self.condensing_stage, self.num_condensing_stages
        if not current <= condensing_stage <= last:
            raise ValueError(f"{condensing_stage=} is not allowed: the model is at {current} of {last}")
        for layer in self.learned_layers():
            layer.condense_to(condensing_stage)

    def condense_at_random(self, seed: int) -> None:
        """Keep as many connections as after the last condensing stage, chosen at random by ``seed`` alone."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.learned_layers():
            layer.condense_at_random(generator)


def group_lasso(model: nn.Module) -> Tensor:
    """The group lasso summed over all learned group convolutions of ``model``: a scalar, 0 if there are none.

    The value does not depend on the condensing stage; the loss includes it while ``not model.is_condensed``, that is,
    in the condensing stages and not in the optimization stage. As in the authors' code, a dropped connection has no
    gradient but adds a constant 1e-3, and a condensed classifier is left out.
    """
    layers = [module for module in model.modules() if isinstance(module, LearnedGroupConv)]
    if not layers:
        return torch.zeros(())
    return torch.stack([layer.lasso() for layer in layers]).sum()


def initialise(model: nn.Module) -> None:
    """Initialise as the authors do, from torch's global random state.

    Convolutions: normal with standard deviation sqrt(2 / (k * k * outputs)). Batch norms: scale 1, shift 0. Linear
    layers: torch's default weights, bias 0.
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
