"""The network: its size, groups and condensation factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from condensenet.config.bounds import MAX_BLOCKS, MAX_CHANNELS, MAX_CLASSES, MAX_LAYERS, MAX_WEIGHTS
from condensenet.config.checks import between, check_types, require
from condensenet.text import shown

Stem = Literal["cifar", "imagenet", "densenet"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One network of the DenseNet family: CondenseNet, its light variant, or plain DenseNet-BC.

    ``reduction=None`` is CondenseNet: all features pass between blocks, reduced only by 2x2 average pooling (fully
    dense connectivity). A number is the theta of DenseNet-BC: a 1x1 convolution reduces the channels before each pool.
    ``groups_1x1=1, condensation_factor=1`` makes every 1x1 convolution an ordinary one.

    Source: paper sections 3 and 4; the authors' ``models/condensenet.py`` and ``models/densenet_LGC.py``.
    """

    block_depths: tuple[int, ...]
    growth_rates: tuple[int, ...]
    groups_1x1: int = 4  # G
    groups_3x3: int = 4
    condensation_factor: int = 4  # C: each group keeps 1/C of its inputs
    bottleneck: int = 4  # a 1x1 convolution has bottleneck * growth_rate outputs
    num_classes: int = 10  # 0: no classifier, the network gives pooled features
    in_channels: int = 3
    stem: Stem = "cifar"  # cifar: 3x3/1; imagenet: 3x3/2; densenet: 7x7/2, BN, ReLU, 3x3/2 max pool
    reduction: float | None = None
    dropout: float = 0.0
    condense_classifier: bool = False  # in the last condensing stage, with G=1 and C=2

    def __post_init__(self) -> None:
        check_types(self)
        depths, rates = self.block_depths, self.growth_rates
        require(len(depths) > 0, "block_depths=() is not allowed: it must have at least one block")
        require(
            len(depths) == len(rates),
            f"block_depths={shown(list(depths))} and growth_rates={shown(list(rates))} differ in length: "
            "each block needs one rate",
        )
        require(
            len(depths) <= MAX_BLOCKS, f"block_depths={shown(list(depths))} is not allowed: at most {MAX_BLOCKS} blocks"
        )
        for name in ("block_depths", "growth_rates"):
            values = getattr(self, name)
            require(
                1 <= min(values) <= max(values) <= MAX_CHANNELS,
                f"{name}={shown(list(values))} is not allowed: every entry must be in [1, {MAX_CHANNELS}]",
            )
        require(
            sum(depths) <= MAX_LAYERS,
            f"block_depths={shown(list(depths))} is not allowed: at most {MAX_LAYERS} layers in all",
        )
        for name in ("groups_1x1", "groups_3x3", "condensation_factor", "bottleneck", "in_channels"):
            between(1, MAX_CHANNELS, **{name: getattr(self, name)})
        between(0, MAX_CLASSES, num_classes=self.num_classes)  # 0: features, no classifier
        require(0 <= self.dropout < 1, f"dropout={shown(self.dropout)} is not allowed: it must be in [0, 1)")
        require(
            self.reduction is None or 0 < self.reduction <= 1,
            f"reduction={shown(self.reduction)} is not allowed: it must be null or in (0, 1]",
        )
        self._check_size()
        self._check_channels()

    def _check_size(self) -> None:
        """Estimate what the network takes before anything is made of it."""
        widest = max(self.num_features, *(self.bottleneck * rate for rate in self.growth_rates))
        require(
            widest <= MAX_CHANNELS,
            f"growth_rates={shown(list(self.growth_rates))} is not allowed: a layer would have {shown(widest)} "
            f"channels, at most {MAX_CHANNELS} are allowed",
        )
        weights = self.num_weights()
        require(
            weights <= MAX_WEIGHTS,
            f"block_depths={shown(list(self.block_depths))}, growth_rates={shown(list(self.growth_rates))}, "
            f"num_classes={self.num_classes} is not allowed: {weights} weights, at most {MAX_WEIGHTS} are allowed",
        )

    def _check_channels(self) -> None:
        for layer, in_channels, out_channels in self.learned_convolutions():
            for name in ("groups_1x1", "condensation_factor"):
                require(
                    in_channels % getattr(self, name) == 0,
                    f"{name}={getattr(self, name)} does not divide the {in_channels} input channels of {layer}",
                )
            require(
                out_channels % self.groups_1x1 == 0,
                f"groups_1x1={self.groups_1x1} does not divide the {out_channels} output channels of {layer}",
            )
        for block, rate in enumerate(self.growth_rates, 1):
            for channels, kind in ((self.bottleneck * rate, "input"), (rate, "output")):
                require(
                    channels % self.groups_3x3 == 0,
                    f"groups_3x3={self.groups_3x3} does not divide the {channels} {kind} channels of the 3x3 "
                    f"convolutions of block {block}",
                )
        if self.condense_classifier:
            require(
                self.num_features % 2 == 0,
                f"condense_classifier=true is not allowed: {self.num_features} classifier inputs are an odd number",
            )

    @property
    def stem_channels(self) -> int:
        return 2 * self.growth_rates[0]

    @property
    def stem_reduction(self) -> int:
        """The stem divides height and width by this, and rounds up."""
        return {"cifar": 1, "imagenet": 2, "densenet": 4}[self.stem]

    @property
    def num_condensing_stages(self) -> int:
        """The number of times training drops connections: C - 1, but at least 1 if the classifier is condensed."""
        return max(self.condensation_factor - 1, int(self.condense_classifier))

    @property
    def num_features(self) -> int:
        """The number of inputs of the classifier."""
        return self.block_channels()[-1][1]

    def num_weights(self, form: Literal["training", "grouped"] = "training") -> int:
        """The weights of all convolutions and the classifier, without biases and batch norms."""
        shrunk, halved = (1, 1) if form == "training" else (self.condensation_factor, 1 + self.condense_classifier)
        stem = self.in_channels * self.stem_channels * (49 if self.stem == "densenet" else 9)
        learned = sum(inputs * outputs for _, inputs, outputs in self.learned_convolutions()) // shrunk
        spatial = sum(
            depth * self.bottleneck * rate * (rate * 9 // self.groups_3x3)
            for depth, rate in zip(self.block_depths, self.growth_rates, strict=True)
        )
        return stem + learned + spatial + self.num_features // halved * self.num_classes

    @property
    def min_image_size(self) -> int:
        """The least height and width in pixels of an image: every transition halves them, and a pixel must be left."""
        return self.stem_reduction * (2 ** (len(self.block_depths) - 1) - 1) + 1  # the stem rounds up

    def block_channels(self) -> list[tuple[int, int]]:
        """(input, output) channels of every block, before the transition that follows it."""
        channels, blocks = self.stem_channels, []
        for depth, rate in zip(self.block_depths, self.growth_rates, strict=True):
            blocks.append((channels, channels + depth * rate))
            channels = self.transition_channels(blocks[-1][1])
        return blocks

    def transition_channels(self, channels: int) -> int:
        """Output channels of a transition; if it has a convolution, a multiple of ``groups_1x1``, rounded up."""
        if self.reduction is None:
            return channels
        return ceil(ceil(channels * self.reduction) / self.groups_1x1) * self.groups_1x1

    def learned_convolutions(self) -> Iterator[tuple[str, int, int]]:
        """(name, input channels, output channels) of every 1x1 convolution that is condensed."""
        blocks = self.block_channels()
        for block, (rate, depth) in enumerate(zip(self.growth_rates, self.block_depths, strict=True)):
            first, last = blocks[block]
            for layer in range(depth):
                yield f"block {block + 1}, layer {layer + 1}", first + layer * rate, self.bottleneck * rate
            if self.reduction is not None and block < len(blocks) - 1:
                yield f"transition {block + 1}", last, self.transition_channels(last)
