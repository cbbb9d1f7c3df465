"""MobileNetV1, which torchvision lacks, in PyTorch. Unlike its siblings, this module needs torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from condensenet.deploy.latency.mobilenet import LAYERS, STEM, STEM_STRIDE


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1) -> list[nn.Module]:
    padding = kernel_size // 2
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class MobileNetV1(nn.Module):
    """Images (N, in_channels, H, W) to logits (N, num_classes). Howard et al., arXiv 1704.04861, table 1."""

    def __init__(self, num_classes: int, in_channels: int, stem_stride: int) -> None:
        super().__init__()
        layers, width = _conv(in_channels, STEM, 3, stem_stride), STEM
        for out_channels, stride in LAYERS:
            layers += _conv(width, width, 3, stride, groups=width)  # depthwise
            layers += _conv(width, out_channels, 1, 1)  # pointwise
            width = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(images), 1).flatten(1))


def mobilenet_v1(num_classes: int = 1000, in_channels: int = 3, stem_stride: int = STEM_STRIDE) -> MobileNetV1:
    """MobileNetV1 1.0; 569M MACs at 224 x 224 and 4.2M parameters. ``stem_stride=1`` suits small images.

    The table's stride of 2 in the last depthwise layer is a misprint for 1, and 1 in all implementations.
    """
    return MobileNetV1(num_classes, in_channels, stem_stride)
