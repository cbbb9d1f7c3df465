"""Networks by name, as timm offers them."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatch
from typing import Any

from condensenet.config import ModelConfig
from condensenet.models.condensenet import CondenseNet
from condensenet.models.layers import Form
from condensenet.models.presets import presets

FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig))


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """The names for ``create_model`` that match ``pattern`` (``*`` and ``?`` as in a shell).

    With ``pretrained`` only those whose weights are published: none so far.
    """
    return [] if pretrained else [name for name in presets if fnmatch(name, pattern)]


def create_model(
    name: str, *, num_classes: int | None = None, pretrained: bool = False, form: Form = "training", **config: Any
) -> CondenseNet:
    """A new network in training mode with random weights (torch's global random state).

    ``name`` is one of ``list_models()``; ``num_classes`` and any other field of ``ModelConfig``, such as
    ``groups_1x1`` or ``in_channels``, replaces the value of that name. Raises ``ValueError`` for an unknown name or
    field, a value that is not allowed, and ``pretrained=True``, since no weights are published.
    """
    check_name(name)
    if pretrained:
        raise ValueError(no_weights(name))
    for key in config:
        if key not in FIELDS:
            raise ValueError(f"{key}={config[key]!r} is not allowed: fields of ModelConfig are {', '.join(FIELDS)}")
    if num_classes is not None:
        config["num_classes"] = num_classes
    return CondenseNet(dataclasses.replace(presets[name], **config), form)


def check_name(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is that of a network."""
    if name not in presets:
        raise ValueError(f"{name!r} is not the name of a network: {', '.join(presets)}")


def no_weights(name: str) -> str:
    """The message for those who ask for trained weights by name."""
    return f"no weights are published for {name}: train it, then load(PATH); create_model({name!r}) has random weights"
