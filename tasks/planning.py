"""What a study will take, before it is started: images, steps, memory, disk, time and energy.

Nothing is prepared or trained. Counts come from the configuration and from the source's own index; bytes of activations
from steps of two and four images on the CPU; rates from ``measure_rate`` on the machine at hand, which leaves out
decoding, or from the user.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from condensenet.config import AugmentConfig, ModelConfig
from condensenet.data import PreparedData, write_prepared
from condensenet.data.augment import crop_size
from condensenet.deploy.cost import count_cost
from condensenet.machine import usable_cores
from condensenet.models import kernels
from condensenet.models.condensenet import CondenseNet
from condensenet.training.cuda_graph import WARM_UP_CALLS
from condensenet.training.evaluation import autocast
from condensenet.training.loop import Trainer
from tasks import paths, sources
from tasks.console import size
from tasks.errors import UserError
from tasks.params import ENCODED, DataParams, Params, RayParams, Setting
from tasks.sources.space import MARGIN, sampled_bytes
from tasks.sources.workers import usable_memory
from tasks.train_worker import usable_workers

KNOWN = {"digits": (1437, 360), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000)}
JPEG_BYTES_A_PIXEL = 0.31  # of 330 photographs of ImageNet at shorter sides of 256 and 320, quality 90
PHOTOGRAPH = 128  # pixels: networks with such inputs are trained on photographs
PHOTOGRAPH_BYTES = 107_000  # of ImageNet's as they are, docs/RESULTS.md
DECODED_PER_CORE_S = {"as is": 544, "320": 943, "256": 1201, "raw": 3050}  # photographs; docs/RESULTS.md
RANDAUGMENT_S = 0.0008  # of a core, for a photograph; docs/LOG.md
STATE_COPIES = 3  # of the parameters: themselves, gradients, momentum
CHECKPOINT_COPIES = 2  # parameters and momentum; two checkpoints are kept while a third is written
CHECKPOINTS = 3
MEASURED_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images of a study, and the bytes that one takes when it is prepared."""

    train: int
    validation: int
    test: int
    bytes_each: float

    @property
    def total_bytes(self) -> float:
        return self.bytes_each * (self.train + self.validation + self.test)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Training images per second of one worker, and where the figure is from."""

    images_per_s: float
    source: str


@dataclass(frozen=True, kw_only=True)
class SettingPlan:
    """What one setting takes. Memory is of one worker: a lower bound, which leaves out what libraries set aside."""

    name: str
    workers: int
    parameters: int
    training_macs: int  # of the dense network, as at the start
    exported_macs: int
    epochs: int
    epoch_areas: tuple[float, ...]  # of a training image in each epoch, in parts of the area of the largest
    evaluation_area: float = 1.0  # of a test image, in the same parts
    steps: int
    memory_bytes: float
    checkpoint_bytes: float
    rate: Rate | None
    decoded_per_s: float | None = None  # images that the threads of a worker load, if they are photographs
    gpu_decoding: bool = False  # of training images; the CPU decodes those of tests

    def hours(self, images: Images) -> float | None:
        """Of all workers together training and evaluating, which takes a third of the work of a training step.

        The rate is that of the largest training images. Smaller images train faster by their area, but decoding a
        photograph takes as long for any crop, so each size is as slow as the slower of the two.
        """
        if self.rate is None:
            return None
        per_s = [
            self.rate.images_per_s / area if self.gpu_decoding else self._per_s(self.rate, area)
            for area in self.epoch_areas
        ]
        training_s = sum(images.train / each for each in per_s)
        evaluated = self.epochs * (images.validation or images.test)
        evaluation_s = evaluated / self._per_s(self.rate, self.evaluation_area / 3)
        return (training_s + evaluation_s) / self.workers / 3600

    def _per_s(self, rate: Rate, work: float) -> float:
        """Images that a worker loads and computes, each of which takes ``work`` times the largest training image's."""
        computed = rate.images_per_s / work
        return computed if self.decoded_per_s is None else min(computed, self.decoded_per_s)


def count_images(params: Params, given: tuple[int, int] | None = None) -> Images:
    """The images of ``params``; ``given`` are training and test images, for a source that is not here yet."""
    data = params.data
    path = paths.checkout() / data.path if data.path else None
    is_here = path is not None and path.exists()
    if given is None and path is not None and not is_here:
        raise UserError(f"data.path={data.path} does not exist: say how many images it will have, --images TRAIN,TEST")
    source = sources.read(data) if is_here else None
    counted = KNOWN.get(data.source) if source is None else (len(source.train.labels), len(source.test.labels))
    train, test = given or counted or (0, 0)
    if data.validation_images >= train:
        raise UserError(f"data.validation_images={data.validation_images} is not allowed with {train} training images")
    each = estimated_bytes(data)
    if source is not None and data.source in ENCODED:
        each = sampled_bytes([source.train, source.test], data, "pixels" if data.raw else "encoded")
    left = train - data.validation_images
    used = left if data.train_images is None else min(data.train_images, left)
    return Images(train=used, validation=data.validation_images, test=test, bytes_each=each)


def estimated_bytes(data: DataParams) -> float:
    """Of one prepared image of a source that is not here: a photograph of 4:3, or an image of the input's size."""
    if data.shorter_side is None and data.source in ENCODED and data.image_size >= PHOTOGRAPH:
        return PHOTOGRAPH_BYTES
    if data.shorter_side is None:
        return float(data.channels * data.image_size**2)
    pixels = data.shorter_side**2 * 4 / 3
    return pixels * (data.channels if data.raw else JPEG_BYTES_A_PIXEL)


def decoded_per_core_s(data: DataParams) -> float | None:
    """Photographs that a core decodes, crops and augments in a second, measured at the nearest shorter side; None for
    others.
    """
    if data.source not in ENCODED or data.image_size < PHOTOGRAPH:
        return None
    form = "as is" if data.shorter_side is None else "256" if data.shorter_side <= 288 else "320"
    seconds = 1 / DECODED_PER_CORE_S["raw" if data.raw else form]
    return 1 / (seconds + (RANDAUGMENT_S if data.augment.randaugment else 0))


def loading_cores(ray: RayParams) -> float:
    """Cores that a worker's threads have for loading: below one a thread where this machine has fewer."""
    cores = math.inf if os.environ.get("RAY_ADDRESS") else usable_cores()
    return min(ray.threads_that_load, cores / ray.max_workers)


def too_few_cores(ray: RayParams) -> str | None:
    """A line if the threads of all workers are more than this machine's cores. A cluster's cores are not known."""
    threads, cores = ray.max_workers * ray.threads_that_load, usable_cores()
    if os.environ.get("RAY_ADDRESS") or threads <= cores:
        return None
    return f"{threads} loading threads on {cores} core{'s' * (cores > 1)} of this machine: they load as {cores} would."


def plan_setting(params: Params, setting: Setting, images: Images, rate: Rate | None) -> SettingPlan:
    """Raises ``UserError`` if an epoch has no whole batch, ``ValueError`` if images are too small for the network."""
    workers, train = params.ray.max_workers, setting.train
    if images.train < train.batch_size:
        raise UserError(
            f"settings.{setting.name}: batch_size={train.batch_size} is not allowed with {images.train} training images"
        )
    model = CondenseNet(setting.model)
    parameters = sum(value.numel() for value in model.parameters())
    averages = int(train.ema_decay > 0)
    at_once = -(-train.batch_size // (params.ray.min_workers * train.gradient_accumulation))
    loaded = decoded_per_core_s(params.data)
    per_image = activation_bytes(model, training_size(params), train.precision, on_gpu=params.ray.use_gpu)
    return SettingPlan(
        name=setting.name,
        workers=workers,
        parameters=parameters,
        training_macs=count_cost(CondenseNet(dense(setting.model)), training_size(params)).macs,
        exported_macs=count_cost(model, params.data.image_size).macs,
        epochs=train.epochs,
        epoch_areas=_epoch_areas(params, train.epochs),
        evaluation_area=(params.data.image_size / training_size(params)) ** 2,
        steps=train.epochs * (images.train // train.batch_size),
        memory_bytes=4 * (STATE_COPIES + averages) * parameters + per_image * at_once,
        checkpoint_bytes=4 * (CHECKPOINT_COPIES + averages) * CHECKPOINTS * parameters,
        rate=rate,
        decoded_per_s=None if loaded is None else loaded * loading_cores(params.ray),
        gpu_decoding=train.gpu_decoding,
    )


def training_size(params: Params) -> int:
    """The height and width of training images, in the last epochs if it grows."""
    return params.data.augment.crop_size or params.data.image_size


def _epoch_areas(params: Params, epochs: int) -> tuple[float, ...]:
    sizes = (crop_size(params.data.augment, params.data.image_size, epoch, epochs) for epoch in range(epochs))
    return tuple((size / training_size(params)) ** 2 for size in sizes)


def dense(config: ModelConfig) -> ModelConfig:
    """The network before anything is pruned."""
    return replace(config, condensation_factor=1, condense_classifier=False)


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
        steps = 1 + (WARM_UP_CALLS if setting.train.cuda_graph else 0) + MEASURED_STEPS  # an epoch each
        train = replace(setting.train, gpu_decoding=False, batch_size=batch, epochs=max(setting.train.epochs, steps))
        trainer = Trainer(CondenseNet(config), PreparedData(folder), AugmentConfig(), train, None, device)
        times = []
        warm_up = 1 + (WARM_UP_CALLS if setting.train.cuda_graph else 0)
        for _ in range(warm_up + MEASURED_STEPS):
            for images, labels in trainer.batches():
                started = time.perf_counter()
                trainer.train_step(images, labels)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
    return float(np.median(times[warm_up:]))


def what_cannot_fit(
    plans: Sequence[SettingPlan],
    images: Images,
    params: Params,
    *,
    free_bytes: float,
    gpu_bytes: Sequence[float],
    memory_bytes: float = math.inf,
) -> list[str]:
    """A line for each thing that the machine at hand lacks.

    ``gpu_bytes`` is empty where its GPUs are not the ones, ``memory_bytes`` infinite where its memory is not the one.
    """
    lines = []
    need = MARGIN * images.total_bytes + sum(plan.checkpoint_bytes for plan in plans)
    if need > free_bytes:
        lines.append(f"disk: {size(need)} are needed, {size(free_bytes)} are free")
    if gpu_bytes:
        if params.ray.min_workers > len(gpu_bytes):
            lines.append(f"GPUs: ray.num_workers={params.ray.num_workers}, and there are {len(gpu_bytes)}")
        for plan in plans:
            if plan.memory_bytes > min(gpu_bytes):
                lines.append(
                    f"{plan.name}: a worker needs at least {size(plan.memory_bytes)} of GPU memory, and there are "
                    f"{size(min(gpu_bytes))}: a smaller train.batch_size, more ray.num_workers or bf16 needs less"
                )
    for plan in plans:
        if params.ray.min_workers * plan.memory_bytes > memory_bytes:
            each = f"{params.ray.min_workers} workers need" if params.ray.min_workers > 1 else "a worker needs"
            lines.append(
                f"{plan.name}: {each} at least {size(params.ray.min_workers * plan.memory_bytes)} of memory, and "
                f"{size(memory_bytes)} are free: a smaller train.batch_size needs less"
            )
    return lines


def free_disk() -> float:
    return shutil.disk_usage(Path.cwd()).free


def gpus_here(params: Params) -> list[Any]:
    """Bytes of memory of each GPU of this machine; none if the study does not train here on GPUs."""
    if not params.ray.use_gpu or os.environ.get("RAY_ADDRESS"):
        return []
    return [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]


def memory_here(params: Params) -> float:
    """Bytes of this machine's memory that are free for workers; infinite if they do not train in it."""
    return math.inf if params.ray.use_gpu or os.environ.get("RAY_ADDRESS") else usable_memory()


def unchecked_gpus(params: Params) -> str | None:
    """A line if the study asks for GPUs, of which there are none here and no cluster is named."""
    if not params.ray.use_gpu or os.environ.get("RAY_ADDRESS") or torch.cuda.is_available():
        return None
    return "ray.use_gpu=true, and this machine has no GPU: whether GPUs and their memory suffice is not checked."
