"""Frozen configurations, which validate themselves on construction. They read no files and do not import torch.

Every ``ValueError`` raised here is one line that names the field, its value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import ceil
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from condensenet.text import shown

Stem = Literal["cifar", "imagenet", "densenet"]


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


# The upper bounds of numbers. Each is far above what is published, and low enough that nothing hangs or overflows.
MAX_BLOCKS = 16  # each halves the image: 65,536 pixels would be one after 16
MAX_LAYERS = 1_000  # of all blocks: the deepest published network of the family has 250
MAX_CHANNELS = 65_536  # of any layer
MAX_CLASSES = 1_000_000  # ImageNet-21k has 21,841
MAX_WEIGHTS = 2**30  # 4 GiB in float32; training holds them three times and keeps two checkpoints
MAX_EPOCHS = 100_000  # a row of the history and a point of the curves each
MAX_BATCH = 2**20  # the largest published one for ImageNet is 2**17
MAX_STEPS = 10**9  # between checkpoints
MAX_RATE = 1_000.0  # of learning: beyond it float32 overflows within steps
MAX_DECAY = 1.0  # weight decay and group lasso: at 1 a step with learning rate 1 leaves nothing of the weights
MAX_ALPHA = 100.0  # of mixing: from there on every pair is mixed by about one half
MAX_PAD = 65_536  # pixels
MAX_CROP = 4_096  # pixels
MAX_OPERATIONS = 14  # of RandAugment on an image: all that there are
MAX_MAGNITUDE = 30


def between(low: float, high: float, **values: float) -> None:
    """Raise ``ValueError`` for the first of ``values`` that is not in [low, high]; NaN is not."""
    for name, value in values.items():
        allowed = f"it must be {low} or more" if value < low else f"it must be in [{low}, {high}]"
        require(low <= value <= high, f"{name}={shown(value)} is not allowed: {allowed}")


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
    "int | None": (
        "null or a whole number",
        lambda value: value is None or _is_integer(value),
    ),
    "float | None": ("null or a number", lambda value: value is None or _is_number(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "tuple[int, ...]": (
        "a list of whole numbers",
        lambda value: isinstance(value, (list, tuple)) and all(_is_integer(entry) for entry in value),
    ),
}


def check_type(kind: type, name: str, value: object) -> None:
    """Raise ``ValueError`` if ``value`` does not have the type of the field ``name`` of the configuration ``kind``."""
    hint, annotation = get_type_hints(kind)[name], kind.__annotations__[name]
    if get_origin(hint) is Literal:
        *others, last = get_args(hint)
        allowed = f"{', '.join(others)} or {last}" if others else last
        require(value in get_args(hint), f"{name}={shown(value)} is not allowed: {allowed}")
    if annotation in KINDS:
        words, is_kind = KINDS[annotation]
        require(is_kind(value), f"{name}={shown(value)} is not allowed: it must be {words}")


def check_types(config: Any) -> None:
    """Raise ``ValueError`` for values that do not have their field's type. ``__post_init__`` calls this first."""
    for field in fields(config):
        value = getattr(config, field.name)
        check_type(type(config), field.name, value)
        if field.type in KINDS:
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
    random resized crop of ImageNet training; evaluation then takes the centre crop. The crop is made ``crop_size``
    pixels wide and high, so images of training may be smaller than those of evaluation.
    """

    crop: Literal["none", "pad", "resized"] = "none"
    pad: int = 0
    flip: bool = False
    crop_size: int | None = None  # of resized crops; null: the network's input size
    first_crop_size: int | None = None  # in the first epochs, growing to crop_size (progressive resizing); null: off
    randaugment: int = 0  # operations of RandAugment on each image, after crop and flip; 0: off
    randaugment_magnitude: int = 9  # in 0..30

    def __post_init__(self) -> None:
        check_types(self)
        between(0, MAX_PAD, pad=self.pad)
        require((self.crop == "pad") == (self.pad > 0), f"pad={self.pad} does not go with crop={self.crop!r}")
        for name in ("crop_size", "first_crop_size"):
            if (value := getattr(self, name)) is not None:
                between(1, MAX_CROP, **{name: value})
                require(self.crop == "resized", f"{name}={value} does not go with crop={self.crop!r}")
        between(0, MAX_OPERATIONS, randaugment=self.randaugment)
        between(0, MAX_MAGNITUDE, randaugment_magnitude=self.randaugment_magnitude)
        self.check_crop_sizes(self.crop_size)

    def check_crop_sizes(self, last: int | None) -> None:
        """Raise ``ValueError`` if the first crops are larger than the last ones, of ``last`` pixels."""
        first = self.first_crop_size
        require(
            first is None or last is None or first <= last,
            f"first_crop_size={first} is not allowed: at most the {last} pixels that it grows to",
        )

    def check_gpu_decoding(self) -> None:
        """Raise ``ValueError`` for augmentation that is made on the CPU alone."""
        refused = "train.gpu_decoding=true is not allowed with augment"
        require(self.crop == "resized", f"{refused}.crop={self.crop!r}: only with 'resized'")
        require(self.randaugment == 0, f"{refused}.randaugment={self.randaugment}: only with 0")


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
    sync_batch_norm: bool = False  # batch norm over the images of all workers; on GPUs only
    learning_rate_batch_size: int = 0  # the rate is for batches of this size and scaled to ``batch_size``; 0: it is not
    seed: int = 0
    checkpoint_every_steps: int = 1000  # and at the end of every epoch
    precision: Literal["fp32", "bf16"] = "fp32"  # fp32 by PyTorch's defaults: cuDNN may use TF32 on a GPU
    compile: Literal["none", "default", "reduce-overhead"] = (
        "none"  # the mode of torch.compile; reduce-overhead uses CUDA graphs
    )
    cuda_graph: bool = False  # run forward and backward pass as one CUDA graph; no effect on a CPU
    gpu_decoding: bool = False  # decode and crop encoded training images on a GPU: other pixels than a CPU's

    def __post_init__(self) -> None:
        check_types(self)
        between(1, MAX_EPOCHS, epochs=self.epochs)
        between(1, MAX_BATCH, batch_size=self.batch_size)
        between(1, MAX_STEPS, checkpoint_every_steps=self.checkpoint_every_steps)
        require(
            0 < self.learning_rate <= MAX_RATE,
            f"learning_rate={shown(self.learning_rate)} is not allowed: it must be above 0 and at most {MAX_RATE:g}",
        )
        require(
            0 <= self.warmup_epochs < self.epochs,
            f"warmup_epochs={shown(self.warmup_epochs)} is not allowed: it must be in [0, epochs={self.epochs})",
        )
        require(0 <= self.momentum < 1, f"momentum={shown(self.momentum)} is not allowed: it must be in [0, 1)")
        between(0, MAX_DECAY, weight_decay=self.weight_decay, group_lasso_weight=self.group_lasso_weight)
        require(
            0 < self.condensing_share <= 1,
            f"condensing_share={shown(self.condensing_share)} is not allowed: it must be in (0, 1]",
        )
        require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing={shown(self.label_smoothing)} is not allowed: it must be in [0, 1)",
        )
        for name in ("mixup", "cutmix"):
            between(0, MAX_ALPHA, **{name: getattr(self, name)})
        between(0, MAX_BATCH, learning_rate_batch_size=self.learning_rate_batch_size)
        require(0 <= self.ema_decay < 1, f"ema_decay={shown(self.ema_decay)} is not allowed: it must be in [0, 1)")
        require(
            self.gradient_accumulation >= 1 and self.batch_size % self.gradient_accumulation == 0,
            f"gradient_accumulation={shown(self.gradient_accumulation)} is not allowed: "
            f"it must divide batch_size={self.batch_size}",
        )
        require(0 <= self.seed < 2**63, f"seed={shown(self.seed)} is not allowed: it must be in [0, 2**63)")
        require(
            self.gradient_accumulation == 1 or self.compile != "reduce-overhead",
            "gradient_accumulation is not allowed with compile='reduce-overhead': its graphs reuse memory of gradients",
        )
        require(
            not self.sync_batch_norm or (self.compile == "none" and not self.cuda_graph),
            "sync_batch_norm=true is not allowed with compile or cuda_graph: workers exchange statistics in each layer",
        )
        require(
            not self.gpu_decoding or not (self.cuda_graph or self.compile == "reduce-overhead"),
            "gpu_decoding=true is not allowed with cuda_graph or compile='reduce-overhead': other threads take memory "
            "of the GPU while a graph is captured",
        )
        require(
            not self.cuda_graph or self.compile != "reduce-overhead",
            "cuda_graph=true is not allowed with compile='reduce-overhead', which captures CUDA graphs itself",
        )
