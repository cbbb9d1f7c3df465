"""The recipe of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensenet.config.bounds import MAX_ALPHA, MAX_BATCH, MAX_DECAY, MAX_EPOCHS, MAX_RATE, MAX_STEPS
from condensenet.config.checks import between, check_types, require
from condensenet.text import shown


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
