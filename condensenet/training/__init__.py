"""Training: ``fit`` is a generator over epochs; it condenses on the way and resumes from its checkpoints."""

from condensenet.training.loop import Trainer, cosine_learning_rate, fit, kept_pct
from condensenet.training.state import EpochResult, TrainingPaused, TrainingStopped

__all__ = ["EpochResult", "Trainer", "TrainingPaused", "TrainingStopped", "cosine_learning_rate", "fit", "kept_pct"]
