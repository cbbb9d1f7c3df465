"""What values of several sections must fulfil together. Each function raises ``ValueError`` with a one-line message."""

from __future__ import annotations

import dataclasses
from typing import Any

from condensenet.config import ModelConfig
from condensenet.config.checks import check_type, require
from tasks.params.sections import ENCODED
from tasks.params.study import Params

MAX_STEP_BYTES = 2**38  # 256 GiB: no accelerator has more memory


def check_together(params: Params) -> None:
    _check_batch_sizes(params)
    _check_norms(params)
    _check_gpu_decoding(params)
    _check_memory(params)
    _check_image_size(params)


def check_shared_model(model: dict[str, Any]) -> None:
    """Also the values that every setting overrides have the types of their keys."""
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    for name, value in model.items():
        if name == "preset":
            continue  # the settings tell
        require(name in names, f"unknown key model.{name}: allowed are preset, {', '.join(names)}")
        try:
            check_type(ModelConfig, name, value)
        except ValueError as error:
            raise ValueError(f"model: {error}") from None


def _check_memory(params: Params) -> None:
    """What a training step takes at least is known before any work starts: a worker's features of all blocks."""
    for name, setting in params.settings.items():
        model, size = setting.model, params.data.augment.crop_size or params.data.image_size
        values = setting.model.in_channels * size**2
        size = -(-size // {"cifar": 1, "imagenet": 2, "densenet": 4}[model.stem])
        for _, channels in model.block_channels():
            values += channels * size**2
            size = max(size // 2, 1)
        images = -(-setting.train.batch_size // (params.ray.max_workers * setting.train.gradient_accumulation))
        require(
            4 * values * images <= MAX_STEP_BYTES,
            f"settings.{name}: train.batch_size={setting.train.batch_size} is not allowed: a step would take at least "
            f"{4 * values * images // 2**30} GiB in each of {params.ray.max_workers} workers, "
            f"at most {MAX_STEP_BYTES // 2**30} are allowed",
        )


def _check_batch_sizes(params: Params) -> None:
    workers = params.ray.num_workers
    if not isinstance(workers, int):
        return  # as many as can divide a batch
    for name, setting in params.settings.items():
        batch, parts = setting.train.batch_size, setting.train.gradient_accumulation
        require(
            batch % workers == 0,
            f"settings.{name}: train.batch_size={batch} is not allowed: "
            f"it must be divisible by ray.num_workers={workers}",
        )
        require(
            batch // workers % parts == 0,
            f"settings.{name}: train.gradient_accumulation={parts} is not allowed: "
            f"it must divide a worker's {batch // workers} images",
        )


def _check_norms(params: Params) -> None:
    for name, setting in params.settings.items():
        require(
            params.ray.use_gpu or not setting.train.sync_batch_norm,
            f"settings.{name}: train.sync_batch_norm=true is not allowed with ray.use_gpu=false: torch has it for GPUs",
        )


def _check_gpu_decoding(params: Params) -> None:
    for name, setting in params.settings.items():
        if not setting.train.gpu_decoding:
            continue
        require(
            params.ray.use_gpu,
            f"settings.{name}: train.gpu_decoding=true is not allowed with ray.use_gpu=false: only GPUs decode",
        )
        require(
            not params.data.raw,
            f"settings.{name}: train.gpu_decoding=true is not allowed with data.raw=true: nothing is left to decode",
        )
        require(
            params.data.source in ENCODED,
            f"settings.{name}: train.gpu_decoding=true is not allowed with data.source={params.data.source!r}, whose "
            f"images are stored decoded: only with {', '.join(ENCODED)}",
        )
        try:
            params.data.augment.check_gpu_decoding()
        except ValueError as error:
            raise ValueError(f"settings.{name}: {error}") from None


def _check_image_size(params: Params) -> None:
    sizes = {"image_size": params.data.image_size}
    for key in ("crop_size", "first_crop_size"):
        sizes[f"augment.{key}"] = getattr(params.data.augment, key) or params.data.image_size
    for name, setting in params.settings.items():
        model = setting.model
        for key, size in sizes.items():
            require(
                size >= model.min_image_size,
                f"settings.{name}: {len(model.block_depths)} blocks after the stem {model.stem!r} need images of at "
                f"least {model.min_image_size} pixels, data.{key}={size}: use fewer blocks or a larger {key}",
            )
