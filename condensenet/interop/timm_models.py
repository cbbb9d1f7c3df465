"""The networks in timm's registry: ``timm.create_model("condensenet_86", num_classes=10)`` after ``register_timm()``.

timm is imported only there: ``pip install 'condensenet[timm]'``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch

from condensenet.config import ModelConfig
from condensenet.models.condensenet import CondenseNet
from condensenet.models.presets import presets
from condensenet.models.registry import create_model, no_weights

__all__: list[str] = []  # timm adds the names of the networks
default_cfgs: dict[str, Any] = {}  # timm looks for it here


def register_timm() -> list[str]:
    """Add the networks of ``list_models()`` to timm's registry; returns their names there.

    A name has underscores for hyphens, and ``condensenet_`` before those that do not begin so. Calling it again has no
    effect. Raises ``ImportError`` without timm.
    """
    try:
        timm = import_module("timm.models")
    except ImportError as error:
        raise ImportError(f"register_timm needs timm: pip install 'condensenet[timm]' ({error})") from error
    names = {timm_name(name): name for name in presets}
    new = {name: preset for name, preset in names.items() if not timm.is_model(name)}
    configurations = {name: _timm_cfg(presets[preset]) for name, preset in new.items()}
    default_cfgs.update(timm.generate_default_cfgs(configurations))
    for name, preset in new.items():
        timm.register_model(_entry(name, preset, timm))
    return list(names)


def timm_name(preset: str) -> str:
    """``condensenet-74-g4`` is ``condensenet_74_g4`` in timm, ``light-94`` is ``condensenet_light_94``."""
    name = preset.replace("-", "_")
    return name if name.startswith("condensenet") else f"condensenet_{name}"


def _entry(name: str, preset: str, timm: Any) -> Callable[..., CondenseNet]:
    blocks = len(presets[preset].block_depths)

    def entry(pretrained: bool = False, **options: Any) -> CondenseNet:
        if pretrained:
            raise ValueError(no_weights(preset))
        features = {"feature_cls": "getter", "out_indices": tuple(range(blocks))}
        network: CondenseNet = timm.build_model_with_cfg(
            _build, name, False, feature_cfg=features, preset=preset, **options
        )
        return network

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = __name__
    entry.__doc__ = f"{preset} of the package condensenet, with random weights."
    return entry


def _build(
    preset: str,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **config: Any,
) -> CondenseNet:
    """``create_model`` with timm's names of options; those that the networks do not have must keep their default.

    Raises ``TypeError`` for an option that neither has, as timm's networks do.
    """
    if unknown := sorted(set(config) - {field.name for field in dataclasses.fields(ModelConfig)}):
        raise TypeError(f"{unknown[0]} is not an option of the network, nor a field of ModelConfig")
    if drop_rate != 0 or drop_path_rate != 0:
        raise ValueError(
            f"{drop_rate=}, {drop_path_rate=} is not allowed: no dropout before the classifier, no stochastic depth"
        )
    with nullcontext() if device is None else torch.device(device):
        model = create_model(preset, num_classes=num_classes, in_channels=in_chans, **config)
        if global_pool != "avg":
            model.reset_classifier(model.num_classes, global_pool)
    return model.to(dtype=dtype)


def _timm_cfg(config: ModelConfig) -> dict[str, Any]:
    """What timm records about a network: sizes and the names of the first and the last layer, no weights."""
    size, first = (32, "stem") if config.stem == "cifar" else (224, "stem.0" if config.stem == "densenet" else "stem")
    with torch.device("meta"):
        pooled = size // CondenseNet(config).feature_info[-1]["reduction"]  # pixels a side
    return {
        "url": "",
        "num_classes": config.num_classes,
        "input_size": (config.in_channels, size, size),
        "pool_size": (pooled, pooled),
        "interpolation": "bilinear",
        "first_conv": first,
        "classifier": "classifier.linear" if config.condense_classifier else "classifier",
        "license": "mit",
    }
