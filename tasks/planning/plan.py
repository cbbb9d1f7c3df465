"""What a study will take, before it is started: images, steps, memory, disk, time and energy.

Nothing is prepared or trained. Counts come from the configuration and from the source's own index; bytes of activations
from steps of two and four images on the CPU; rates from ``measure_rate`` on the machine at hand, which leaves out
decoding, or from the user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from condensenet.config import ModelConfig
from condensenet.data.augment import crop_size
from condensenet.deploy.cost import count_cost
from condensenet.models.condensenet import CondenseNet
from tasks import paths, sources
from tasks.console import size
from tasks.errors import UserError
from tasks.params import ENCODED, DataParams, Params, Setting
from tasks.planning.machine import loading_cores
from tasks.planning.measuring import Rate, activation_bytes, training_size
from tasks.sources.space import MARGIN, sampled_bytes

KNOWN = {"digits": (1437, 360), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000)}
JPEG_BYTES_A_PIXEL = 0.31  # of 330 photographs of ImageNet at shorter sides of 256 and 320, quality 90
PHOTOGRAPH = 128  # pixels: networks with such inputs are trained on photographs
PHOTOGRAPH_BYTES = 107_000  # of ImageNet's as they are, docs/RESULTS.md
DECODED_PER_CORE_S = {"as is": 544, "320": 943, "256": 1201, "raw": 3050}  # photographs; docs/RESULTS.md
RANDAUGMENT_S = 0.0008  # of a core, for a photograph; docs/LOG.md
STATE_COPIES = 3  # of the parameters: themselves, gradients, momentum
CHECKPOINT_COPIES = 2  # parameters and momentum; two checkpoints are kept while a third is written
CHECKPOINTS = 3


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


def _epoch_areas(params: Params, epochs: int) -> tuple[float, ...]:
    sizes = (crop_size(params.data.augment, params.data.image_size, epoch, epochs) for epoch in range(epochs))
    return tuple((size / training_size(params)) ** 2 for size in sizes)


def dense(config: ModelConfig) -> ModelConfig:
    """The network before anything is pruned."""
    return replace(config, condensation_factor=1, condense_classifier=False)


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
