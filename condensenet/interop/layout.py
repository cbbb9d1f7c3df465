"""How the authors name and order the tensors of a network, and how their files wrap them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condensenet.models.condensenet import CondenseNet, Form
from condensenet.models.storage import KEYS, read_plain
from condensenet.text import escaped

State = dict[str, Tensor]
Layers = dict[str, State]  # tensors by the authors' name of their layer, in the order of the forward pass
LAYER = re.compile(
    r"(features\.init_conv|features\.denseblock_\d+\.denselayer_\d+\.conv_[12]"
    r"|features\.transition_\d+\.conv|features\.norm_last|classifier)\.(.+)",
    re.ASCII,
)
MAX_NAME = 200  # characters; theirs have fifty
INTEGERS = ("index", "num_batches_tracked")
CHECKPOINT_KEYS = {"fingerprint", "environment", "trainer"}  # of our trainings in progress


def require(condition: bool, layer: str, message: str) -> None:
    """Raise a ``ValueError`` that names ``layer`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{layer} does not fit: {message}")


def read_layers(source: Mapping[str, Any] | str | os.PathLike[str]) -> Layers:
    """The layers of a checkpoint, on the CPU: indices as int64, all other numbers as float32.

    ``module.`` prefixes and dictionaries around the state dict are removed, and the keys may be in any order.
    Raises ``ValueError`` if it is not a state dict of the authors' networks.
    """
    layers: Layers = {}
    for name, value in _state_dict(source).items():
        plain = ".".join(part for part in name.split(".") if part != "module")
        match = LAYER.fullmatch(plain)
        if match is None or not name.isprintable() or len(name) > MAX_NAME:
            shortened = escaped(name[:MAX_NAME])
            raise ValueError(f"{shortened} is not a name of the authors' CondenseNet, DenseNet_LGC or DenseNet")
        tensors = layers.setdefault(match[1], {})
        require(match[2] not in tensors, match[1], f"{match[2]} is there twice, with and without a prefix")
        tensors[match[2]] = value
    in_order = sorted(layers.items(), key=lambda item: position(item[0]))
    return {
        layer: {name: _plain_tensor(layer, name, value) for name, value in tensors.items()}
        for layer, tensors in in_order
    }


def form_of(layers: Layers) -> Form:
    """Only the converted form has an index."""
    return "grouped" if any("index" in tensors for tensors in layers.values()) else "training"


def dense_layer(block: int, layer: int, conv: int) -> str:
    return f"features.denseblock_{block}.denselayer_{layer}.conv_{conv}"


def transition(block: int) -> str:
    return f"features.transition_{block}.conv"


def position(layer: str) -> tuple[int, ...]:
    """A sort key that puts the authors' layer names in the order of the forward pass."""
    for rank, name in ((0, "features.init_conv"), (2, "features.norm_last"), (3, "classifier")):
        if layer == name:
            return (rank,)
    block, *rest = (int(number) for number in re.findall(r"_(\d+)", layer))
    return (1, block, "transition" in layer, *rest)


def layers_by_block(layers: Layers) -> dict[int, set[int]]:
    """The numbers of the dense layers in each block, complete or not, by block number."""
    blocks: dict[int, set[int]] = {}
    for name in layers:
        match = re.fullmatch(r"features\.denseblock_(\d+)\.denselayer_(\d+)\.conv_[12]", name)
        if match is not None:
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return blocks


def named_layers(model: CondenseNet) -> Iterator[tuple[str, str, nn.Module]]:
    """(the authors' name, our name, module) of every layer with tensors, in the order of the forward pass."""
    require(
        isinstance(model.stem, nn.Conv2d),
        "features.init_conv",
        f"stem={model.config.stem!r} is a 7x7 convolution, the authors' is 3x3: stem must be cifar or imagenet",
    )
    yield "features.init_conv", "stem", model.stem
    for block, depth in enumerate(model.config.block_depths):
        for layer in range(depth):
            for conv, ours in ((1, "conv_1x1"), (2, "conv_3x3")):
                name = f"blocks.{block}.{layer}.{ours}"
                yield dense_layer(block + 1, layer + 1, conv), name, model.get_submodule(name)
        if model.config.reduction is not None and block < len(model.transitions):
            name = f"transitions.{block}.conv_1x1"
            yield transition(block + 1), name, model.get_submodule(name)
    yield "features.norm_last", "norm", model.norm
    yield "classifier", "classifier", model.classifier


def _state_dict(source: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """The state dict itself, read from its file and unwrapped."""
    content: Any = source
    if isinstance(content, (str, os.PathLike)):
        content = read_plain(Path(content))
    if isinstance(content, Mapping) and (content.keys() >= KEYS or content.keys() >= CHECKPOINT_KEYS):
        raise ValueError("it is this package's own file, not one of the authors' code: condensenet.load reads it")
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    needed = "a mapping of names to tensors, or one under 'state_dict', is needed"
    if not isinstance(content, Mapping) or not content:
        problem = "it is empty" if isinstance(content, Mapping) else f"it is of type {type(content).__name__}"
        raise ValueError(f"the checkpoint is not a state dict: {problem}; {needed}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"the checkpoint is not a state dict: {name!r} holds a {type(value).__name__}; {needed}")
    return content


def _plain_tensor(layer: str, name: str, value: Tensor) -> Tensor:
    dense = value.layout is torch.strided and not value.is_quantized and not value.is_meta
    require(dense, layer, f"{name} is not an ordinary dense tensor")
    whole = value.numel() * value.itemsize <= value.untyped_storage().nbytes()
    require(whole, layer, f"{name} of shape {tuple(value.shape)} repeats some of its values")
    integral = not (value.is_floating_point() or value.is_complex() or value.dtype is torch.bool)
    if name.endswith(INTEGERS):
        require(integral, layer, f"{name} is of type {value.dtype}, not of integers")
        return value.detach().to("cpu", torch.int64)
    if not name.startswith("_"):
        require(value.is_floating_point(), layer, f"{name} is of type {value.dtype}, not of floating-point numbers")
    require(not value.is_complex(), layer, f"{name} is of type {value.dtype}, not of real numbers")
    return value.detach().to("cpu", torch.float32)
