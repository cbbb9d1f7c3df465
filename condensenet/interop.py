"""The authors' checkpoints (github.com/ShichenLiu/CondenseNet), in and out.

Their training form holds full weights, ``_mask``, ``_count`` and ``_stage`` a layer; their converted form an
``index`` and a group convolution a layer, and a classifier halved without training. The mask alone is believed:
``_stage`` may run ahead of it, because their code drops too little after a skipped stage.

Shapes: O outputs, I inputs, G groups, K = O / G filters of a group.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condensenet import condensing
from condensenet.condensing import by_group
from condensenet.config import ModelConfig
from condensenet.convert import PER_CHANNEL
from condensenet.layers import CondensedGroupConv, CondensedLinear, LearnedGroupConv, LearnedLinear, NormReluConv
from condensenet.models.condensenet import CondenseNet, Form
from condensenet.storage import build_model, new_model, read_plain

State = dict[str, Tensor]
LAYER = re.compile(
    r"(features\.init_conv|features\.denseblock_\d+\.denselayer_\d+\.conv_[12]"
    r"|features\.transition_\d+\.conv|features\.norm_last|classifier)\.(.+)"
)
FEW_LAYERS = 4  # too few to tell by chance equal masks from masks of fewer groups


def load_authors_checkpoint(
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str], config: ModelConfig
) -> CondenseNet:
    """The model of an authors' checkpoint, in evaluation mode, sharing no tensor with it.

    The keys tell the training form (the result has its masks and condensing stage) from the converted form (the
    result is in grouped form; if its classifier is halved, the result's ``config.condense_classifier`` is true).
    A ``module.`` prefix and a dictionary around the state dict (``{"state_dict": ...}``) are taken off.

    Raises ``ValueError`` naming the first layer that does not fit ``config``, or if it is no such checkpoint.
    """
    layers = _layers(_read(state_dict_or_path))
    form: Form = "grouped" if any("index" in tensors for tensors in layers.values()) else "training"
    if form == "grouped":
        config = dataclasses.replace(config, condense_classifier="index" in layers.get("classifier", {}))
    model = new_model(config, form)
    state: State = {}
    for expected, found in zip_longest(_named_layers(model), layers):
        if expected is None or found != expected[0]:
            raise ValueError(_layer_mismatch(None if expected is None else expected[0], found))
        theirs, ours, module = expected
        translated = _translate(theirs, layers[theirs], module)
        state.update({f"{ours}.{name}": value.clone() for name, value in translated.items()})
    model = build_model(config, form, state)
    _check_groups(model)
    return model


def halve_classifier(model: CondenseNet) -> CondenseNet:
    """A new model whose classifier keeps the half of its inputs with the largest L1 norms, without training.

    The authors' conversion does this; it changes the logits. Either form; raises ``ValueError`` if the classifier
    is condensed already.
    """
    classifier = model.classifier
    linear = classifier.linear if isinstance(classifier, LearnedLinear) else classifier
    if not isinstance(linear, nn.Linear) or (isinstance(classifier, LearnedLinear) and classifier.is_condensed):
        raise ValueError("the classifier is condensed already")
    config = dataclasses.replace(model.config, condense_classifier=True)
    state = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("classifier.")}
    every_input = torch.ones(1, linear.in_features, dtype=torch.bool, device=linear.weight.device)
    mask = condensing.drop_mask(every_input, linear.weight, linear.in_features // 2)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    if model.form == "training":
        state["classifier.group_mask"] = mask
    else:
        state["classifier.index"] = mask[0].nonzero()[:, 0]
        weight = weight[:, mask[0]]
    state.update({"classifier.linear.weight": weight, "classifier.linear.bias": bias})
    return build_model(config, model.form, state).train(model.training)


def authors_state_dict(model: CondenseNet) -> State:
    """The state dict of ``model``, either form, under the authors' names, without ``module.`` prefix.

    A training form whose classifier is condensed has no place in their layout for the classifier's mask: its
    dropped weights are written as zeros.
    """
    state: State = {}
    for theirs, _, module in _named_layers(model):
        if isinstance(module, LearnedGroupConv):
            tensors = {name: value for name, value in module.state_dict().items() if name != "group_mask"}
            tensors["_mask"] = module.mask.to(module.full_weight.dtype)
            tensors["_count"] = torch.tensor([float(module.num_dropped)])
            tensors["_stage"] = torch.tensor([float(min(module.condensing_stage, module.condensation_factor - 1))])
        elif isinstance(module, LearnedLinear):
            tensors = {"weight": module.weight_in_use(), "bias": module.linear.bias}
        else:
            tensors = module.state_dict()
        state.update({f"{theirs}.{name}": value.detach().clone() for name, value in tensors.items()})
    return state


def _read(source: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """The state dict itself, taken out of its file and of what is wrapped around it."""
    content: Any = source
    if not isinstance(content, Mapping):
        content = read_plain(Path(content))
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError("the checkpoint is not a state dict: a mapping of names to tensors, or one under 'state_dict'")
    return content


def _layers(state: Mapping[str, Tensor]) -> dict[str, State]:
    """Tensors by layer, in the order of the forward pass, whatever the order of the keys."""
    layers: dict[str, State] = {}
    for name, value in state.items():
        plain = ".".join(part for part in name.split(".") if part != "module")
        match = LAYER.fullmatch(plain)
        if match is None:
            raise ValueError(f"{name} is not a name of the authors' CondenseNet or DenseNet_LGC")
        layers.setdefault(match[1], {})[match[2]] = value
    return dict(sorted(layers.items(), key=lambda item: _position(item[0])))


def _position(layer: str) -> tuple[int, ...]:
    """Sorts the authors' layer names in the order of the forward pass."""
    for place, name in ((0, "features.init_conv"), (2, "features.norm_last"), (3, "classifier")):
        if layer == name:
            return (place,)
    block, *rest = (int(number) for number in re.findall(r"_(\d+)", layer))
    return (1, block, "transition" in layer, *rest)


def _named_layers(model: CondenseNet) -> Iterator[tuple[str, str, nn.Module]]:
    """(the authors' name, our name, module) of every layer with tensors, in the order of the forward pass."""
    if not isinstance(model.stem, nn.Conv2d):
        raise ValueError(f"stem={model.config.stem!r} is not allowed: the authors' models have cifar or imagenet")
    yield "features.init_conv", "stem", model.stem
    for block, depth in enumerate(model.config.block_depths):
        for layer in range(depth):
            for theirs, ours in (("conv_1", "conv_1x1"), ("conv_2", "conv_3x3")):
                name = f"blocks.{block}.{layer}.{ours}"
                yield (
                    f"features.denseblock_{block + 1}.denselayer_{layer + 1}.{theirs}",
                    name,
                    model.get_submodule(name),
                )
        if model.config.reduction is not None and block < len(model.transitions):
            name = f"transitions.{block}.conv_1x1"
            yield f"features.transition_{block + 1}.conv", name, model.get_submodule(name)
    yield "features.norm_last", "norm", model.norm
    yield "classifier", "classifier", model.classifier


def _layer_mismatch(expected: str | None, found: str | None) -> str:
    """The message for the earlier of two layers that should be the same."""
    if expected is None or (found is not None and _position(found) < _position(expected)):
        return f"{found} does not fit: the checkpoint has this layer, the configuration has not"
    return f"{expected} does not fit: the configuration has this layer, the checkpoint has not"


def _translate(layer: str, tensors: State, module: nn.Module) -> State:
    """The state of our ``module`` from the authors' ``tensors`` of this layer; checks every name and shape."""
    tensors = dict(tensors)
    if isinstance(module, LearnedGroupConv):
        tensors["group_mask"] = _group_mask(layer, tensors, module)
    elif isinstance(module, LearnedLinear):
        tensors = {f"linear.{name}": value for name, value in tensors.items()}
        tensors["group_mask"] = torch.ones(module.group_mask.shape, dtype=torch.bool)
    elif isinstance(module, NormReluConv) and "index" in tensors:
        tensors = _ungroup(layer, tensors, module.conv.in_channels)
    wanted = module.state_dict()
    for name in wanted:
        if name.endswith("num_batches_tracked"):  # not in files of old PyTorch versions
            tensors.setdefault(name, torch.tensor(0))
        _require(name in tensors, layer, f"{name} is missing")
        shape, needed = tuple(tensors[name].shape), tuple(wanted[name].shape)
        _require(shape == needed, layer, f"{name} has shape {shape}, the configuration needs {needed}")
    for name in tensors:
        _require(name in wanted, layer, f"the configuration has no place for {name}")
    if isinstance(module, CondensedGroupConv):
        _check_index(layer, tensors["index"], module.in_channels)
    elif isinstance(module, CondensedLinear):
        _check_index(layer, tensors["index"], module.in_features)
    return tensors


def _group_mask(layer: str, tensors: State, module: LearnedGroupConv) -> Tensor:
    """The (G, I) mask of a learned group convolution; takes the authors' three buffers out of ``tensors``."""
    tensors.pop("_count", None)
    stage = tensors.pop("_stage", None)
    mask = tensors.pop("_mask", None)
    groups, factor, inputs = module.groups, module.condensation_factor, module.in_channels
    if mask is None:
        _require(factor == 1, layer, "_mask is missing")
        return torch.ones(groups, inputs, dtype=torch.bool)
    shape, needed = tuple(mask.shape), tuple(module.full_weight.shape)
    _require(shape == needed, layer, f"_mask has shape {shape}, the configuration needs {needed}")
    mask_KGI = by_group(mask, groups) != 0
    _require(bool((mask_KGI == mask_KGI[:1]).all()), layer, f"its filters do not share masks as {groups} groups do")
    dropped = (~mask_KGI[0]).sum(dim=1).unique().tolist()
    done, rest = divmod(dropped[0] * factor, inputs)
    _require(
        len(dropped) == 1 and rest == 0 and done < factor,
        layer,
        f"its groups dropped {dropped} of {inputs} inputs, which condensation_factor={factor} does not lead to",
    )
    if stage is not None:
        claimed = int(stage) or done  # a stage of 0 says nothing: masks can be made without it
        _require(
            done <= claimed < factor,
            layer,
            f"{dropped[0]} of {inputs} inputs dropped at stage {int(stage)} does not go with "
            f"condensation_factor={factor}",
        )
    return mask_KGI[0]


def _check_groups(model: CondenseNet) -> None:
    """Masks of G groups also pass for masks of 2 G: refuse if every layer's masks repeat, which no chance explains."""
    layers = [(theirs, layer) for theirs, _, layer in _named_layers(model) if isinstance(layer, LearnedGroupConv)]
    groups = model.config.groups_1x1
    if len(layers) < FEW_LAYERS or not all(layer.num_dropped for _, layer in layers):
        return
    for period in (p for p in range(1, groups) if groups % p == 0):
        by_period = [layer.group_mask.unflatten(0, (-1, period)) for _, layer in layers]
        repeat = all(bool((mask == mask[:1]).all()) for mask in by_period)
        _require(not repeat, layers[0][0], f"its masks are those of {period} groups, the configuration has {groups}")


def _ungroup(layer: str, tensors: State, in_channels: int) -> State:
    """With C = 1 their converted form gathers every input G times; ours is a plain convolution of the same value."""
    index, weight = tensors["index"], tensors["conv.weight"]
    groups = len(index) // in_channels
    _require(
        len(index) == groups * in_channels > 0, layer, f"index has {len(index)} entries, not {in_channels} a group"
    )
    index_GI = index.unflatten(0, (groups, in_channels))
    order_GI = index_GI.argsort(dim=1)
    every_input = torch.arange(in_channels).expand(groups, -1)
    _require(torch.equal(index_GI.gather(1, order_GI), every_input), layer, "a group does not have every input once")
    plain = {name: value for name, value in tensors.items() if name not in ("index", "conv.weight")}
    for name in PER_CHANNEL:
        copies_GI = tensors[f"norm.{name}"].unflatten(0, (groups, in_channels)).gather(1, order_GI)
        _require(bool((copies_GI == copies_GI[:1]).all()), layer, f"norm.{name} differs between groups")
        plain[f"norm.{name}"] = copies_GI[0]
    w_GKI = weight.flatten(1).unflatten(0, (groups, -1))
    w_GKI = w_GKI.gather(2, order_GI[:, None].expand_as(w_GKI))
    plain["conv.weight"] = w_GKI.transpose(0, 1).flatten(0, 1)[:, :, None, None]
    return plain


def _check_index(layer: str, index: Tensor, in_channels: int) -> None:
    fits = int(index.min()) >= 0 and int(index.max()) < in_channels
    _require(fits, layer, f"index reaches beyond its {in_channels} inputs")


def _require(condition: bool, layer: str, message: str) -> None:
    if not condition:
        raise ValueError(f"{layer} does not fit: {message}")
