"""Frozen configurations, which validate themselves on construction. They read no files and do not import torch.

Every ``ValueError`` raised here is one line that names the field, its value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import ceil, inf
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

MAX_BATCH = 2**20  # the largest published one for ImageNet is 2**17
MAX_ALPHA = 100.0  # of mixing: from there on every pair is mixed by about one half

Stem = Literal["cifar", "imagenet", "densenet"]


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def at_least_one(**values: int) -> None:
    for name, value in values.items():
        require(value >= 1, f"{name}={value} is not allowed: it must be 1 or more")


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Convert NumPy numbers to Python's and lists to tuples, so that equal configurations compare and save alike."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(entry) for entry in value)
    if type(value) in (bool, int, float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


KINDS = {  # by annotation: what a value must be, in words, and a function that checks it
    "int": ("a whole number", _is_integer),
    "float": ("a number", _is_number),
    "float | None": ("null or a number", lambda value: value is None or _is_number(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "tuple[int, ...]": (
        "a list of whole numbers",
        lambda value: isinstance(value, (list, tuple)) and all(_is_integer(entry) for entry in value),
    ),
}


def check_types(config: Any) -> None:
    """Raise ``ValueError`` for values that do not have their field's type. ``__post_init__`` calls this first."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if get_origin(hints[field.name]) is Literal:
            *others, last = get_args(hints[field.name])
            allowed = f"{', '.join(others)} or {last}"
            require(value in (*others, last), f"{field.name}={value!r} is not allowed: {allowed}")
        if field.type in KINDS:
            kind, is_kind = KINDS[field.type]
            require(is_kind(value), f"{field.name}={value!r} is not allowed: it must be {kind}")
            object.__setattr__(config, field.name, _plain(value))


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
            f"block_depths={list(depths)} and growth_rates={list(rates)} differ in length: each block needs one rate",
        )
        for name in ("block_depths", "growth_rates"):
            values = getattr(self, name)
            require(min(values) >= 1, f"{name}={list(values)} is not allowed: every entry must be 1 or more")
        at_least_one(
            groups_1x1=self.groups_1x1,
            groups_3x3=self.groups_3x3,
            condensation_factor=self.condensation_factor,
            bottleneck=self.bottleneck,
            in_channels=self.in_channels,
        )
        require(self.num_classes >= 0, f"num_classes={self.num_classes} is not allowed: it must be 0 or more")
        require(0 <= self.dropout < 1, f"dropout={self.dropout} is not allowed: it must be in [0, 1)")
        require(
            self.reduction is None or 0 < self.reduction <= 1,
            f"reduction={self.reduction} is not allowed: it must be null or in (0, 1]",
        )
        self._check_channels()

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
    def num_condensing_stages(self) -> int:
        """The number of times training drops connections: C - 1, but at least 1 if the classifier is condensed."""
        return max(self.condensation_factor - 1, int(self.condense_classifier))

    @property
    def num_features(self) -> int:
        """The number of inputs of the classifier."""
        return self.block_channels()[-1][1]

    @property
    def min_image_size(self) -> int:
        """The least height and width in pixels of an image: every transition halves them, and a pixel must be left."""
        last = 2 ** (len(self.block_depths) - 1)
        return {"cifar": last, "imagenet": 2 * last - 1, "densenet": 4 * last - 3}[self.stem]

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


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random augmentation of training images, a function of (seed, epoch, image index) alone.

    ``crop="pad"`` pads by ``pad`` zero pixels and takes a random crop of the original size. ``crop="resized"`` is the
    random resized crop of ImageNet training; evaluation then takes the centre crop.
    """

    crop: Literal["none", "pad", "resized"] = "none"
    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        require(self.pad >= 0, f"pad={self.pad} is not allowed: it must be 0 or more")
        require((self.crop == "pad") == (self.pad > 0), f"pad={self.pad} does not go with crop={self.crop!r}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe: SGD with Nesterov momentum, cosine decay to 0 step by step, group lasso, condensing.

    ``batch_size`` is the global batch size over all workers. ``condensing`` says when and how connections are dropped:
    ``gradual`` is the paper's method, all stages within the first ``condensing_share`` of training (paper: one half).
    The other two are for comparison, with equal MACs in the end: ``one-shot`` trains the dense network and does all
    drops at once after ``condensing_share`` of training; ``random`` learns nothing about connections, but draws those
    that are kept before the first step.
    """

    epochs: int = 300
    batch_size: int = 64
    learning_rate: float = 0.1
    warmup_epochs: int = 0  # of linear rise from 0, before the cosine
    momentum: float = 0.9
    weight_decay: float = 1e-4
    group_lasso_weight: float = 0.0
    condensing: Literal["gradual", "one-shot", "random"] = "gradual"  # as models.condensing.Schedule
    condensing_share: float = 0.5
    label_smoothing: float = 0.0
    mixup: float = 0.0  # parameter of the Beta distribution that two images are mixed by; 0: off
    cutmix: float = 0.0  # the same for a rectangle of one image in another; with both, each batch gets one of them
    ema_decay: float = 0.0  # of the average of the weights that is evaluated and kept; 0: the weights themselves
    gradient_accumulation: int = 1  # parts of a worker's share of a batch that are computed one after another
    learning_rate_batch_size: int = 0  # the rate is for batches of this size and scaled to ``batch_size``; 0: it is not
    seed: int = 0
    checkpoint_every_steps: int = 1000  # and at the end of every epoch
    precision: Literal["fp32", "bf16"] = "fp32"  # fp32 by PyTorch's defaults: cuDNN may use TF32 on a GPU
    compile: Literal["none", "default", "reduce-overhead"] = (
        "none"  # the mode of torch.compile; reduce-overhead uses CUDA graphs
    )
    cuda_graph: bool = False  # run forward and backward pass as one CUDA graph; no effect on a CPU

    def __post_init__(self) -> None:
        check_types(self)
        at_least_one(epochs=self.epochs, batch_size=self.batch_size, checkpoint_every_steps=self.checkpoint_every_steps)
        require(
            0 < self.learning_rate < inf,
            f"learning_rate={self.learning_rate} is not allowed: it must be above 0 and finite",
        )
        require(
            0 <= self.warmup_epochs < self.epochs,
            f"warmup_epochs={self.warmup_epochs} is not allowed: it must be in [0, epochs={self.epochs})",
        )
        require(0 <= self.momentum < 1, f"momentum={self.momentum} is not allowed: it must be in [0, 1)")
        for name in ("weight_decay", "group_lasso_weight"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} is not allowed: it must be 0 or more")
        require(
            0 < self.condensing_share <= 1,
            f"condensing_share={self.condensing_share} is not allowed: it must be in (0, 1]",
        )
        require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing={self.label_smoothing} is not allowed: it must be in [0, 1)",
        )
        for name in ("mixup", "cutmix"):
            require(
                0 <= getattr(self, name) <= MAX_ALPHA,
                f"{name}={getattr(self, name)} is not allowed: it must be in [0, {MAX_ALPHA}]",
            )
        require(0 <= self.ema_decay < 1, f"ema_decay={self.ema_decay} is not allowed: it must be in [0, 1)")
        require(
            self.gradient_accumulation >= 1 and self.batch_size % self.gradient_accumulation == 0,
            f"gradient_accumulation={self.gradient_accumulation} is not allowed: "
            f"it must divide batch_size={self.batch_size}",
        )
        require(
            0 <= self.learning_rate_batch_size <= MAX_BATCH,
            f"learning_rate_batch_size={self.learning_rate_batch_size} is not allowed: it must be in [0, {MAX_BATCH}]",
        )
        require(0 <= self.seed < 2**63, f"seed={self.seed} is not allowed: it must be in [0, 2**63)")
        require(
            not self.cuda_graph or self.compile != "reduce-overhead",
            "cuda_graph=true is not allowed with compile='reduce-overhead', which captures CUDA graphs itself",
        )
