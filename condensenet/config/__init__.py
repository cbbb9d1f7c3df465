"""Frozen configurations, which validate themselves on construction. They read no files and do not import torch.

Every ``ValueError`` raised here is one line that names the field, its value and what is allowed.
"""

from condensenet.config.augment import AugmentConfig
from condensenet.config.model import ModelConfig, Stem
from condensenet.config.train import TrainConfig

__all__ = ["AugmentConfig", "ModelConfig", "Stem", "TrainConfig"]
