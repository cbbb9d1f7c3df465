"""Steps of a training, measured here: how many images a second, and the memory that an image takes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from condensenet.config import AugmentConfig
from condensenet.data import PreparedData, write_prepared
from condensenet.models import kernels
from condensenet.models.condensenet import CondenseNet
from condensenet.training.cuda_graph import WARM_UP_CALLS
from condensenet.training.evaluation import autocast
from condensenet.training.loop import Trainer
from tasks.errors import UserError
from tasks.params import Params, Setting
from tasks.train_worker import usable_workers

MEASURED_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Training images per second of one worker, and where the figure is from."""

    images_per_s: float
    source: str


def training_size(params: Params) -> int:
    """The height and width of training images, in the last epochs if it grows."""
    return params.data.augment.crop_size or params.data.image_size


def measure_rate(params: Params, setting: Setting) -> Rate:
    """Train a few steps of one worker's share of a batch on random images, on a GPU if the study asks for one."""
    use_gpu = params.ray.use_gpu
    if use_gpu and not torch.cuda.is_available():
        raise UserError("ray.use_gpu=true is not allowed with --measure: this machine has no GPU")
    device = torch.device("cuda" if use_gpu else "cpu")
    parts = setting.train.gradient_accumulation
    workers = usable_workers(params.ray.max_workers, setting.train.batch_size // parts)
    batch = setting.train.batch_size // workers
    threads = torch.get_num_threads()
    if not use_gpu:
        torch.set_num_threads(params.ray.threads_per_worker)
    try:
        seconds = _seconds_a_step(params, setting, batch, device)
    finally:
        torch.set_num_threads(threads)
    name = torch.cuda.get_device_name() if use_gpu else f"{params.ray.threads_per_worker} CPU threads"
    return Rate(
        images_per_s=batch / seconds,
        source=f"measured here now: {name}, batches of {batch}, dense network, images already decoded",
    )


def _seconds_a_step(params: Params, setting: Setting, batch: int, device: torch.device) -> float:
    """The median over a few steps after those that warm up, a CUDA graph's capture among them."""
    config, size = setting.model, training_size(params)
    random = np.random.default_rng(0)
    shape, classes = (batch, config.in_channels, size, size), [str(label) for label in range(config.num_classes)]
    split = random.integers(0, 256, shape, dtype=np.uint8), random.integers(0, config.num_classes, batch).tolist()
    with tempfile.TemporaryDirectory() as folder:
        write_prepared(Path(folder), {"train": split, "test": split}, name="random", classes=classes)
        warm_up = 1 + (WARM_UP_CALLS if setting.train.cuda_graph else 0)
        steps = warm_up + MEASURED_STEPS  # an epoch each
        train = replace(setting.train, gpu_decoding=False, batch_size=batch, epochs=max(setting.train.epochs, steps))
        trainer = Trainer(CondenseNet(config), PreparedData(folder), AugmentConfig(), train, None, device)
        times = []
        for _ in range(steps):
            for images, labels in trainer.batches():
                started = time.perf_counter()
                trainer.train_step(images, labels)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
    return float(np.median(times[warm_up:]))


def activation_bytes(model: CondenseNet, image_size: int, precision: str = "fp32", *, on_gpu: bool = True) -> float:
    """Bytes that the layers keep of one more image for the backward pass: on a GPU, where each layer is by itself, or
    on the CPU, for which this package's kernels keep less.
    """
    with without_kernels() if on_gpu else nullcontext():
        two, four = (_kept_bytes(model, batch, image_size, precision) for batch in (2, 4))
    return (four - two) / 2


def _kept_bytes(model: CondenseNet, batch: int, image_size: int, precision: str) -> int:
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.zeros(batch, model.config.in_channels, image_size, image_size)
    watch = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with autocast("cpu", precision), watch:
        loss = F.cross_entropy(model.train()(images), torch.zeros(batch, dtype=torch.long))
    del loss  # which kept all of them until here, each with an address of its own
    return sum(kept.values())


@contextmanager
def without_kernels() -> Iterator[None]:
    """Layer by layer, as on a GPU."""
    before = os.environ.get(kernels.SWITCH)
    os.environ[kernels.SWITCH] = "off"
    try:
        yield
    finally:
        if before is None:
            del os.environ[kernels.SWITCH]
        else:
            os.environ[kernels.SWITCH] = before
