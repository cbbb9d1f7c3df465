"""The networks that the tables know: presets of ours, MobileNetV1, and torchvision's by its names."""

from __future__ import annotations

from condensenet.deploy.latency.mobilenet import MOBILENET

CONDENSENETS = ("condensenet-74-g4", "condensenet-74-g8")
TORCHVISION = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x2_0",
    "resnet18",
    "resnet50",
    "densenet121",
    "vgg16",
)
NETWORKS = (MOBILENET, *CONDENSENETS, *TORCHVISION)
