"""CondenseNet (Huang et al., CVPR 2018): networks whose 1x1 convolutions learn which inputs to keep, by groups."""

from condensenet.config import ModelConfig
from condensenet.models.condensenet import CondenseNet, group_lasso
from condensenet.models.presets import presets

__all__ = ["CondenseNet", "ModelConfig", "group_lasso", "presets"]
