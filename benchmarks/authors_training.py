"""The baseline for training speed and accuracy: the authors' training algorithm, reimplemented.

It follows the paper (sections 4.1 and 5.1) and the behaviour of the authors' code, github.com/ShichenLiu/CondenseNet
(``layers.py``, ``models/condensenet.py``, ``main.py``). The code is ours, but its cost per step is theirs:

- every forward pass of every learned layer checks whether pruning is due (the stage is a tensor, read each time) and
  multiplies the weights by a float32 mask;
- separate modules instead of fused calls: BN, ReLU, dropout, 1x1 convolution; BN, ReLU, 3x3 group convolution;
  ``torch.cat``; float32, channels first, contiguous;
- the group lasso is a Python loop over the layers that masks the weights again;
- ``torch.optim.SGD(nesterov=True)``; the learning rate is set per iteration; loss, top-1 and top-5 are read
  (``.item()``) in every step; a ``DataLoader`` over PIL images with torchvision's transforms.

It differs from their code in ways that make no step slower:

- progress belongs to a network instead of a class, so two networks in one process do not affect each other;
- pruning, which happens C - 1 times in a training, is one scatter instead of a loop over channels;
- there is no ``DataParallel`` around the network; ``zero_grad`` and SGD are the installed PyTorch's, with its defaults;
- images and classes come from the prepared data and are normalised with its mean and standard deviation;
- the learned transitions of the light models are not built.

Two of their bugs are kept: skipping a stage prunes one share too little, and the group lasso ends at stage G - 1,
which is right only for G = C (as in every preset). Their classifier stays dense until it is converted.

Shapes: N images, O outputs, I inputs, G groups, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig
from condensenet.data import ImageSplit

LASSO_FLOOR = 1e-6
TOP = (1, 5)


@dataclass
class Clock:
    """Training progress of one network, in [0, 1], shared by its learned layers."""

    progress: float = 0.0


class LearnedConv(nn.Module):
    """BN, ReLU, dropout, and a 1x1 convolution that prunes 1/C of its inputs at every new stage."""

    _count: Tensor
    _stage: Tensor
    _mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, config: ModelConfig, clock: Clock) -> None:
        super().__init__()
        self.groups, self.factor, self.clock = config.groups_1x1, config.condensation_factor, clock
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(config.dropout) if config.dropout > 0 else None
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.register_buffer("_count", torch.zeros(1))
        self.register_buffer("_stage", torch.zeros(1))
        self.register_buffer("_mask", torch.ones_like(self.conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        self.drop_if_due()
        x = self.relu(self.norm(x))
        if self.dropout is not None:
            x = self.dropout(x)
        return F.conv2d(x, self.conv.weight * self._mask)

    def lasso(self) -> Tensor | int:
        """Sum over groups and inputs of the L2 norm of a group's masked weights; 0 from stage G - 1 on."""
        if self._reached(self.groups - 1):
            return 0
        weight_KGI = self._by_group(self.conv.weight * self._mask)
        return weight_KGI.pow(2).sum(0).clamp(min=LASSO_FLOOR).sqrt().sum()

    def drop_if_due(self) -> None:
        last = self.factor - 1
        stage = next((i for i in range(last) if self.clock.progress * 2 < (i + 1) / last), last)
        if not self._reached(stage):
            self._stage.fill_(stage)
            self._drop(self.conv.in_channels // self.factor)

    def _reached(self, stage: int) -> bool:
        return bool((self._stage >= stage).all())  # waits for the GPU, as theirs does

    @torch.no_grad()
    def _drop(self, number: int) -> None:
        """Prune the ``number`` least important inputs of each group. Inputs pruned before sort first."""
        score_GI = self._by_group(self.conv.weight * self._mask).abs().sum(0)
        done = int(self._count[0])
        dropped = score_GI.sort(dim=1)[1][:, done : done + number]
        self._by_group(self._mask).scatter_(2, dropped.expand(self.conv.out_channels // self.groups, -1, -1), 0)
        self._count.fill_(done + number)

    def _by_group(self, weight: Tensor) -> Tensor:
        """Filter o belongs to group o mod G: (O, I, 1, 1) as a view (O / G, G, I)."""
        return weight.view(-1, self.groups, self.conv.in_channels)


class DenseLayer(nn.Module):
    def __init__(self, in_channels: int, growth_rate: int, config: ModelConfig, clock: Clock) -> None:
        super().__init__()
        width = config.bottleneck * growth_rate
        self.conv_1 = LearnedConv(in_channels, width, config, clock)
        self.conv_2 = nn.Sequential()
        self.conv_2.add_module("norm", nn.BatchNorm2d(width))
        self.conv_2.add_module("relu", nn.ReLU(inplace=True))
        conv = nn.Conv2d(width, growth_rate, 3, padding=1, groups=config.groups_3x3, bias=False)
        self.conv_2.add_module("conv", conv)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv_2(self.conv_1(x))], 1)


class AuthorsNet(nn.Module):
    """Images (N, in_channels, S, S) to logits (N, num_classes), with the authors' names for every tensor.

    The ``authors_state_dict`` of a ``CondenseNet`` in training form loads into it. Raises ``ValueError`` for a network
    that the authors' ``condensenet.py`` cannot build.
    """

    def __init__(self, config: ModelConfig, image_size: int) -> None:
        super().__init__()
        if config.reduction is not None or config.stem == "densenet":
            raise ValueError(
                f"reduction={config.reduction} and stem={config.stem!r} are not allowed: the authors' network has "
                "reduction null and stem cifar or imagenet"
            )
        self.clock = Clock()
        stride = 2 if config.stem == "imagenet" else 1
        stem = nn.Conv2d(config.in_channels, config.stem_channels, 3, stride=stride, padding=1, bias=False)
        self.features = nn.Sequential()
        self.features.add_module("init_conv", stem)
        for block in range(len(config.block_depths)):
            if block > 0:
                self.features.add_module(f"transition_{block}", nn.AvgPool2d(2, 2))
            self.features.add_module(f"denseblock_{block + 1}", self._dense_block(config, block))
        self.features.add_module("norm_last", nn.BatchNorm2d(config.num_features))
        self.features.add_module("relu_last", nn.ReLU(inplace=True))
        last_size = -(-image_size // stride) >> (len(config.block_depths) - 1)
        self.features.add_module("pool_last", nn.AvgPool2d(last_size))
        self.classifier = nn.Linear(config.num_features, config.num_classes)
        self._initialise()

    def _dense_block(self, config: ModelConfig, block: int) -> nn.Sequential:
        first, last = list(config.block_channels())[block]
        rate, layers = config.growth_rates[block], nn.Sequential()
        for number, width in enumerate(range(first, last, rate), 1):
            layers.add_module(f"denselayer_{number}", DenseLayer(width, rate, config, self.clock))
        return layers

    def forward(self, images: Tensor, progress: float | None = None) -> Tensor:
        if progress:
            self.clock.progress = progress
        return self.classifier(self.features(images).flatten(1))

    def reach(self, progress: float) -> None:
        """Set the progress and prune what is due then, as the next forward pass would."""
        self.clock.progress = progress
        for layer in self.learned():
            layer.drop_if_due()

    def learned(self) -> list[LearnedConv]:
        return [module for module in self.modules() if isinstance(module, LearnedConv)]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                height, width = module.kernel_size
                module.weight.data.normal_(0, sqrt(2 / (height * width * module.out_channels)))
            elif isinstance(module, nn.Linear):
                module.bias.data.zero_()


class Average:
    """A running mean, like the authors' meters."""

    def __init__(self) -> None:
        self.total = self.count = 0.0

    def add(self, value: float, number: int) -> None:
        self.total += value * number
        self.count += number

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)


LACKING = (
    *("label_smoothing", "mixup", "cutmix", "ema_decay", "gradient_accumulation", "learning_rate_batch_size"),
    *("warmup_epochs", "condensing", "condensing_share", "precision"),
)


class AuthorsTrainer:
    """``step`` is one iteration of their training loop; the caller sets ``progress``, in [0, 1).

    Raises ``ValueError`` for settings their recipe lacks, such as label smoothing, mixing, an average of the weights,
    warm-up, bf16, other ways of condensing, or a condensing share other than 0.5.
    """

    def __init__(self, model: AuthorsNet, config: TrainConfig, device: torch.device) -> None:
        theirs = TrainConfig()
        for name in LACKING:
            value, allowed = getattr(config, name), getattr(theirs, name)
            if value != allowed:
                raise ValueError(f"{name}={value} is not allowed: the authors' training has {allowed}")
        self.model, self.config, self.device = model.to(device), config, device
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=True,
        )
        self.learned = model.learned()
        self.losses, self.top1, self.top5 = Average(), Average(), Average()

    def step(self, images: Tensor, labels: Tensor, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = 0.5 * self.config.learning_rate * (1 + cos(pi * progress))
        labels = labels.to(self.device, non_blocking=True)
        logits = self.model(images.to(self.device, non_blocking=True), progress)
        loss = self.criterion(logits, labels)
        if self.config.group_lasso_weight > 0:
            lasso: Tensor | int = 0
            for layer in self.learned:
                lasso = lasso + layer.lasso()
            loss = loss + self.config.group_lasso_weight * lasso
        top1, top5 = precision(logits.detach(), labels)
        self.losses.add(loss.item(), len(images))
        self.top1.add(top1.item(), len(images))
        self.top5.add(top5.item(), len(images))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def error_pct(self, loader: DataLoader) -> float:
        """Top-1 error in % over ``loader``, in evaluation mode."""
        self.model.eval()
        top1 = Average()
        for images, labels in loader:
            logits = self.model(images.to(self.device, non_blocking=True))
            top1.add(precision(logits, labels.to(self.device, non_blocking=True))[0].item(), len(images))
        self.model.train()
        return 100 - top1.mean


def precision(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Top-1 and top-5 accuracy in %; with fewer than five classes the second is 100."""
    best = logits.topk(min(max(TOP), logits.shape[1]), 1, True, True)[1].t()
    correct = best.eq(labels.view(1, -1).expand_as(best))
    return [correct[:k].reshape(-1).float().sum(0) * (100 / len(labels)) for k in TOP]


class PilImages(Dataset):
    """Raw prepared images, held in memory and returned as PIL images, like torchvision's CIFAR-10."""

    def __init__(self, split: ImageSplit, transform: transforms.Compose) -> None:
        pixels_NHWC = split.raw(np.arange(len(split))).transpose(0, 2, 3, 1)
        self.pixels = np.ascontiguousarray(pixels_NHWC if pixels_NHWC.shape[3] > 1 else pixels_NHWC[..., 0])
        self.labels, self.transform = split.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def train_loader(split: ImageSplit, augment: AugmentConfig, batch_size: int, workers: int) -> DataLoader:
    """Shuffled, augmented batches, drawn from torch's global random state."""
    size, augmentations = split.manifest.image_size, []
    if augment.crop == "pad":
        augmentations.append(transforms.RandomCrop(size, padding=augment.pad))
    elif augment.crop == "resized":
        augmentations.append(transforms.RandomResizedCrop(size))
    if augment.flip:
        augmentations.append(transforms.RandomHorizontalFlip())
    return _loader(split, augmentations, batch_size, workers, shuffle=True)


def evaluation_loader(split: ImageSplit, batch_size: int, workers: int) -> DataLoader:
    return _loader(split, [], batch_size, workers, shuffle=False)


def endless(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _loader(split: ImageSplit, augmentations: list, batch_size: int, workers: int, *, shuffle: bool) -> DataLoader:
    manifest = split.manifest
    if manifest.encoding != "raw":
        raise ValueError(f"{manifest.name} is {manifest.encoding}: the authors' training reads raw images only")
    steps = [*augmentations, transforms.ToTensor(), transforms.Normalize(manifest.mean, manifest.std)]
    return DataLoader(
        PilImages(split, transforms.Compose(steps)),
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
