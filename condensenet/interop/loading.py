"""From the authors' checkpoints to this package's networks.

Shapes: O outputs, I inputs, G groups, K = O / G filters of a group.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from condensenet.config import ModelConfig, Stem
from condensenet.deploy.convert import PER_CHANNEL
from condensenet.interop.configuration import infer_config, infer_groups
from condensenet.interop.layout import (
    Layers,
    State,
    form_of,
    layers_by_block,
    named_layers,
    position,
    read_layers,
    require,
)
from condensenet.models.condensenet import CondenseNet
from condensenet.models.condensing import by_group
from condensenet.models.layers import CondensedGroupConv, CondensedLinear, LearnedGroupConv, LearnedLinear, NormReluConv
from condensenet.models.storage import build_model, new_model


def load_authors_checkpoint(
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str],
    config: ModelConfig | None = None,
    *,
    stem: Stem | None = None,
    groups_1x1: int | None = None,
    condensation_factor: int | None = None,
) -> CondenseNet:
    """The model of an authors' checkpoint, in evaluation mode, on the CPU in float32, sharing no tensor with it.

    The form follows from the keys. A training form keeps its masks and condensing stage. A converted form becomes a
    grouped one, with ``config.condense_classifier`` true if its classifier is halved. A ``module.`` prefix and a
    dictionary around the state dict (``{"state_dict": ...}``) are removed. A file is read as plain data: one that
    contains code is rejected.

    Without ``config``, the configuration is inferred from the checkpoint (``result.config``). If the checkpoint lacks
    a setting, a ``ValueError`` names it, and the caller passes it as a keyword:

    - ``stem``, the stride of the first convolution, is inferred for the networks of the authors' ``main.py``, CIFAR's
      (3 blocks, 10 or 100 classes) and ImageNet's (5 blocks, 1000 classes), and needed for any other;
    - ``groups_1x1`` and ``condensation_factor`` are inferred from every converted file. In a training form they follow
      from the masks alone: needed if nothing is dropped yet, or if several values lead to the same masks;
    - ``reduction`` is the simplest number that gives the same channels, 0.5 if possible;
    - ``dropout`` is 0: no file has it, and it matters only for further training (``dataclasses.replace``).

    Raises ``ValueError`` naming the first layer, in the order of the forward pass, that does not fit ``config``, or
    if it is not such a checkpoint; ``OSError`` if there is no file to read.
    """
    keywords = {"stem": stem, "groups_1x1": groups_1x1, "condensation_factor": condensation_factor}
    given = {name: value for name, value in keywords.items() if value is not None}
    if config is not None and given:
        raise ValueError(f"{', '.join(given)} beside config is not allowed: config has all settings")
    if not isinstance(config, ModelConfig | None):
        raise TypeError(f"config must be a ModelConfig, not a {type(config).__name__}")
    layers = read_layers(state_dict_or_path)
    if config is not None:
        return _fit(layers, config)
    config = infer_config(layers, given)
    try:
        return _fit(layers, config)
    except ValueError as error:
        raise ValueError(f"{error} (the configuration was inferred from the checkpoint)") from None


def _fit(layers: Layers, config: ModelConfig) -> CondenseNet:
    """The model of these layers, each of which must fit ``config``."""
    form = form_of(layers)
    if form == "grouped":
        config = dataclasses.replace(config, condense_classifier="index" in layers.get("classifier", {}))
    model = new_model(config, form)
    state: State = {}
    for expected, name in zip_longest(named_layers(model), layers):
        if expected is None or name != expected[0]:
            raise ValueError(_layer_mismatch(None if expected is None else expected[0], name, layers, config))
        theirs, ours, module = expected
        translated = _translate(theirs, layers[theirs], module, config.groups_1x1)
        state.update({f"{ours}.{name}": value.clone() for name, value in translated.items()})
    model = build_model(config, form, state)
    _check_groups(model)
    return model


def _layer_mismatch(expected: str | None, actual: str | None, layers: Layers, config: ModelConfig) -> str:
    """The message about the earlier of two layers that should be the same."""
    is_extra = expected is None or (actual is not None and position(actual) < position(expected))
    layer = actual if is_extra else expected
    assert layer is not None
    has, lacks = ("checkpoint", "configuration") if is_extra else ("configuration", "checkpoint")
    message = f"{layer} does not fit: the {has} has this layer, the {lacks} has not"
    if "transition" in layer:
        return f"{message}: reduction={config.reduction}"
    if "denseblock" not in layer:
        return message
    blocks, block = layers_by_block(layers), position(layer)[1]
    depths = list(config.block_depths)
    if block > len(depths) or block not in blocks:
        return f"{message}: the checkpoint has {len(blocks)} blocks, block_depths={depths}"
    return f"{message}: the checkpoint has {len(blocks[block])} layers in block {block}, block_depths={depths}"


def _translate(layer: str, tensors: State, module: nn.Module, groups: int) -> State:
    """The state of our ``module`` from the authors' ``tensors`` of this layer; checks every name and shape."""
    tensors = dict(tensors)
    if isinstance(module, LearnedGroupConv):
        tensors["group_mask"] = _group_mask(layer, tensors, module)
    elif isinstance(module, LearnedLinear):
        tensors = {f"linear.{name}": value for name, value in tensors.items()}
        tensors["group_mask"] = torch.ones(module.group_mask.shape, dtype=torch.bool)
    elif isinstance(module, NormReluConv) and "index" in tensors:
        tensors = _ungroup(layer, tensors, module.conv, groups)
    expected = module.state_dict()
    _check_shapes(layer, tensors, {name: tuple(value.shape) for name, value in expected.items()})
    for name in tensors:
        require(name in expected, layer, f"the configuration has no place for {name}")
    if isinstance(module, CondensedGroupConv):
        _check_index(layer, tensors["index"], module.in_channels)
    elif isinstance(module, CondensedLinear):
        _check_index(layer, tensors["index"], module.in_features)
    return tensors


def _check_shapes(layer: str, tensors: State, expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, expected_shape in expected.items():
        if name.endswith("num_batches_tracked"):  # missing in files of old PyTorch versions
            tensors.setdefault(name, torch.tensor(0))
        require(name in tensors, layer, f"{name} is missing")
        shape = tuple(tensors[name].shape)
        require(shape == expected_shape, layer, f"{name} has shape {shape}, the configuration needs {expected_shape}")


def _group_mask(layer: str, tensors: State, module: LearnedGroupConv) -> Tensor:
    """The (G, I) mask of a learned group convolution; removes the authors' three buffers from ``tensors``."""
    groups, factor, inputs = module.groups, module.condensation_factor, module.in_channels
    shape = tuple(module.full_weight.shape)
    _check_shapes(layer, tensors, {"conv.weight": shape})
    tensors.pop("_count", None)
    stage = tensors.pop("_stage", None)
    if "_mask" not in tensors:
        require(factor == 1, layer, "_mask is missing")
        return torch.ones(groups, inputs, dtype=torch.bool)
    _check_shapes(layer, tensors, {"_mask": shape})
    mask = tensors.pop("_mask")
    require(bool(((mask == 0) | (mask == 1)).all()), layer, "_mask holds other values than 0 and 1")
    mask_KGI = by_group(mask, groups) != 0
    inferred, _ = infer_groups([mask.flatten(1) != 0])
    shared = bool((mask_KGI == mask_KGI[:1]).all())
    require(shared, layer, f"its masks are those of {inferred} groups, the configuration has {groups}")
    _check_drops(layer, mask_KGI[0], factor, stage)
    return mask_KGI[0]


def _check_drops(layer: str, mask_GI: Tensor, factor: int, stage: Tensor | None) -> None:
    """Every group must have dropped what C prescribes at the stage that the checkpoint states, or at an earlier one."""
    inputs = mask_GI.shape[1]
    dropped = (~mask_GI).sum(dim=1).unique().tolist()
    reached, remainder = divmod(dropped[0] * factor, inputs)
    require(
        len(dropped) == 1 and remainder == 0 and reached < factor,
        layer,
        f"its groups dropped {dropped} of {inputs} inputs, which condensation_factor={factor} does not lead to",
    )
    if stage is not None:
        require(stage.numel() == 1 and bool(stage.isfinite()), layer, "_stage is not one finite number")
        stated = int(stage) or reached  # a stage of 0 states nothing: masks can be made without it
        require(
            reached <= stated < factor,
            layer,
            f"{dropped[0]} of {inputs} inputs dropped at stage {int(stage)} does not go with "
            f"condensation_factor={factor}",
        )


def _check_groups(model: CondenseNet) -> None:
    """Masks of G groups also fit 2 G: refuse if the masks of all layers repeat, which chance cannot explain."""
    layers = [(theirs, layer) for theirs, _, layer in named_layers(model) if isinstance(layer, LearnedGroupConv)]
    groups = model.config.groups_1x1
    inferred, certain = infer_groups(layer.group_mask for _, layer in layers)
    if certain:
        message = f"its masks are those of {inferred} groups, the configuration has {groups}"
        require(inferred == groups, layers[0][0], message)


def _ungroup(layer: str, tensors: State, conv: nn.Conv2d, groups: int) -> State:
    """With C = 1 their converted form gathers every input G times; ours is an equal plain convolution."""
    inputs = conv.in_channels
    gathered = (groups * inputs,)
    shapes = {f"norm.{name}": gathered for name in PER_CHANNEL}
    _check_shapes(layer, tensors, {"index": gathered, "conv.weight": tuple(conv.weight.shape), **shapes})
    index_GI = tensors["index"].unflatten(0, (groups, inputs))
    order_GI = index_GI.argsort(dim=1)
    every_input = torch.arange(inputs).expand(groups, -1)
    require(torch.equal(index_GI.gather(1, order_GI), every_input), layer, "a group does not have every input once")
    plain = {name: value for name, value in tensors.items() if name not in ("index", "conv.weight")}
    for name in PER_CHANNEL:
        copies_GI = tensors[f"norm.{name}"].unflatten(0, (groups, inputs)).gather(1, order_GI)
        require(bool((copies_GI == copies_GI[:1]).all()), layer, f"norm.{name} differs between groups")
        plain[f"norm.{name}"] = copies_GI[0]
    w_GKI = tensors["conv.weight"].flatten(1).unflatten(0, (groups, -1))
    w_GKI = w_GKI.gather(2, order_GI[:, None].expand_as(w_GKI))
    plain["conv.weight"] = w_GKI.transpose(0, 1).flatten(0, 1)[:, :, None, None]
    return plain


def _check_index(layer: str, index: Tensor, inputs: int) -> None:
    low, high = int(index.min()), int(index.max())
    fits = low >= 0 and high < inputs
    require(fits, layer, f"index goes from {low} to {high}, beyond its {inputs} inputs (0 to {inputs - 1})")
