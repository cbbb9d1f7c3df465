"""Small networks for the emulated machine, with all that exported files have to get right."""

from __future__ import annotations

import torch
from torch import nn

from condensenet import CondenseNet, ModelConfig

TOLERANCE = 1e-5  # of the largest logit
SMALL = {"block_depths": (2, 2), "growth_rates": (8, 16), "num_classes": 10}
NETWORKS = {  # and the size of its images
    "g4-c4": (ModelConfig(**SMALL, groups_1x1=4, condensation_factor=4), (16, 16)),
    "g2-c4": (ModelConfig(**SMALL, groups_1x1=2, groups_3x3=2, condensation_factor=4), (9, 13)),
    "g8-c2-imagenet": (
        ModelConfig(
            **SMALL, groups_1x1=8, groups_3x3=8, condensation_factor=2, stem="imagenet", condense_classifier=True
        ),
        (33, 32),
    ),
}


def condensed(config: ModelConfig) -> CondenseNet:
    """In training form, with batch norms that hide nothing: negative, zero and tiny scales."""
    torch.manual_seed(0)
    model = CondenseNet(config)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.normal_()
            norm.weight.data[::7] = 0.0
            norm.weight.data[1::11] = 1e-30
            norm.bias.data.normal_(std=0.3)
            norm.running_mean.normal_(std=0.3)
            norm.running_var.uniform_(0.5, 1.5)
    model.condense_to(model.num_condensing_stages)
    return model.eval()
