"""The configuration that an authors' checkpoint tells, and the questions about what it does not tell.

Only the first layer of each kind is asked; loading then checks every layer against the result.
Shapes: O outputs, I inputs, G groups, R = I / C inputs that a group keeps in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import comb, floor, gcd, lcm, log10
from statistics import mode
from typing import Any

from torch import Tensor

from condensenet.config import ModelConfig
from condensenet.interop.layout import Layers, dense_layer, form_of, layers_by_block, require, transition

BY_CHANCE = 1e-6  # rarer coincidences of masks are none
STEMS = {(3, 10): "cifar", (3, 100): "cifar", (5, 1000): "imagenet"}  # by blocks and classes, in their main.py


def infer_config(layers: Layers, given: Mapping[str, Any]) -> ModelConfig:
    """The configuration of these layers; ``given`` are fields that are known already.

    Raises ``ValueError`` naming the first layer that makes no sense, or all fields that must be given.
    """
    fields, questions = _shapes(layers), {}
    stem = STEMS.get((len(fields["block_depths"]), fields["num_classes"]))
    if stem is None:
        questions["stem"] = (
            f"no tensor holds its stride, and {len(fields['block_depths'])} blocks with {fields['num_classes']} "
            f"classes are neither the authors' CIFAR networks (3 blocks, 10 or 100 classes) nor their ImageNet ones "
            f"(5 blocks, 1000 classes): 'cifar' is stride 1, 'imagenet' stride 2"
        )
    fields["stem"] = stem
    if form_of(layers) == "grouped":
        fields.update(_groups_of_index(layers))
    else:
        fields.update(_groups_of_masks(layers, questions))
    fields.update(given)
    _ask({name: why for name, why in questions.items() if name not in given})
    return _with_reduction(layers, ModelConfig(**fields))


def told_groups(masks: Iterable[Tensor]) -> tuple[int, bool]:
    """(number of groups that these masks are of, whether more groups would look so by no chance).

    Each mask is (rows, I), boolean, True for kept; its rows repeat with the period of the groups.
    """
    groups, log_chance = 1, 0.0
    for mask in masks:
        kept = int(mask[0].sum())
        if kept < mask.shape[1]:
            period = _period(mask)
            groups = lcm(groups, period)
            log_chance -= period * log10(max(1, comb(mask.shape[1], kept)))
    return groups, log_chance < log10(BY_CHANCE)


def _period(mask: Tensor) -> int:
    """After how many rows the mask repeats."""
    return next(p for p in _divisors(len(mask)) if bool((mask == mask[:p].repeat(len(mask) // p, 1)).all()))


def _ask(questions: Mapping[str, str]) -> None:
    if questions:
        reasons = ", ".join(f"{name} ({why})" for name, why in questions.items())
        call = ", ".join(f"{name}=..." for name in questions)
        raise ValueError(
            f"the checkpoint does not tell {reasons}: "
            f"call load_authors_checkpoint(checkpoint, {call}), or give it a whole config"
        )


def _shapes(layers: Layers) -> dict[str, Any]:
    """The fields that shapes alone tell, in the training form as in the converted one."""
    depths = _block_depths(layers)
    rates = tuple(_size(layers, dense_layer(block, 1, 2), "conv.weight", 0) for block in range(1, len(depths) + 1))
    conv_1, conv_2 = dense_layer(1, 1, 1), dense_layer(1, 1, 2)
    stem, width = _size(layers, "features.init_conv", "weight", 0), _size(layers, conv_1, "conv.weight", 0)
    twice = f"its {stem} outputs are not twice the {rates[0]} outputs of {conv_2}"
    require(stem == 2 * rates[0], "features.init_conv", twice)
    head = "linear.weight" if "linear.weight" in layers.get("classifier", {}) else "weight"
    return {
        "block_depths": depths,
        "growth_rates": rates,
        "bottleneck": _quotient(conv_1, "outputs", width, rates[0], f"the outputs of {conv_2}"),
        "groups_3x3": _quotient(conv_2, "inputs", width, _size(layers, conv_2, "conv.weight", 1)),
        "in_channels": _size(layers, "features.init_conv", "weight", 1),
        "num_classes": _size(layers, "classifier", head, 0),
    }


def _block_depths(layers: Layers) -> tuple[int, ...]:
    blocks = layers_by_block(layers)
    for block in range(1, len(blocks) + 1):
        for layer in range(1, len(blocks.get(block, ())) + 1):
            for conv in (1, 2):
                name = dense_layer(block, layer, conv)
                require(name in layers, name, "the checkpoint has later layers, but lacks this one")
        require(block in blocks, dense_layer(block, 1, 1), "the checkpoint has later layers, but lacks this one")
    require(bool(blocks), dense_layer(1, 1, 1), "the checkpoint lacks it")
    return tuple(len(blocks[block]) for block in sorted(blocks))


def _size(layers: Layers, layer: str, name: str, axis: int) -> int:
    """One side of a convolution's or linear layer's weights."""
    require(layer in layers, layer, "the checkpoint lacks it")
    require(name in layers[layer], layer, f"{name} is missing")
    shape, sides = tuple(layers[layer][name].shape), 2 if layer == "classifier" else 4
    require(len(shape) == sides and min(shape) > 0, layer, f"{name} has shape {shape}, not of {sides} dimensions")
    return shape[axis]


def _quotient(layer: str, what: str, value: int, by: int, of: str = "the inputs of a filter") -> int:
    require(value % by == 0, layer, f"its {value} {what} are no multiple of {by}, {of}")
    return value // by


def _groups_of_index(layers: Layers) -> dict[str, int]:
    """G and C: the index has G * R entries, a filter R inputs, and the first layer gets all that the stem gives."""
    layer = dense_layer(1, 1, 1)
    require("index" in layers[layer], layer, "index is missing")
    inputs, kept = _size(layers, "features.init_conv", "weight", 0), _size(layers, layer, "conv.weight", 1)
    gathered = layers[layer]["index"].numel()
    require(gathered > 0, layer, "index is empty")
    return {
        "groups_1x1": _quotient(layer, "entries of index", gathered, kept),
        "condensation_factor": _quotient(layer, "inputs", inputs, kept),
    }


def _groups_of_masks(layers: Layers, questions: dict[str, str]) -> dict[str, int]:
    """G and C as far as the masks of a training form tell them; what they do not tell becomes a question."""
    masks = {name: tensors["_mask"] for name, tensors in layers.items() if "_mask" in tensors}
    if not masks:  # their plain DenseNet
        first = dense_layer(1, 1, 1)
        inputs, read = _size(layers, "features.init_conv", "weight", 0), _size(layers, first, "conv.weight", 1)
        ordinary = f"a filter reads {read} of {inputs} inputs without mask or index: an ordinary group convolution"
        require(inputs == read, first, ordinary)
        return {"groups_1x1": 1, "condensation_factor": 1}
    for name, mask in masks.items():
        require(mask.dim() == 4 and mask.numel() > 0, name, f"_mask has shape {tuple(mask.shape)}, not of 4 dimensions")
    masked = {name: mask.flatten(1) != 0 for name, mask in masks.items()}
    found: dict[str, int] = {}
    groups, sure = told_groups(masked.values())
    if gcd(*(size for mask in masked.values() for size in mask.shape)) % groups:  # a broken mask: checked later
        groups = mode(_period(mask) for mask in masked.values() if not mask.all())
    if sure:
        found["groups_1x1"] = groups
    elif all(bool(mask.all()) for mask in masked.values()):
        questions["groups_1x1"] = "nothing is dropped yet: it changes no logits now, but what will be dropped"
    else:
        questions["groups_1x1"] = f"the masks are of {groups} groups, but so few could be of more by chance"
    *others, last = _factors(layers, masked)
    if others:
        questions["condensation_factor"] = f"{', '.join(map(str, others))} and {last} lead to these masks"
    else:
        found["condensation_factor"] = last
    return found


def _factors(layers: Layers, masked: Mapping[str, Tensor]) -> list[int]:
    """Every C that leads to the masks of all layers, at or before the condensing stage that each claims.

    Before it, because their code drops too little after a skipped stage. A stage of 0 claims nothing.
    """
    factors = _divisors(gcd(*(mask.shape[1] for mask in masked.values())))
    for name, mask in masked.items():
        inputs, dropped = mask.shape[1], int((~mask[0]).sum())
        stage = layers[name].get("_stage")
        claimed = 0 if stage is None or stage.numel() != 1 else int(stage.nan_to_num().item())
        before = factors
        factors = [
            factor
            for factor in before
            if dropped * factor % inputs == 0 and dropped * factor // inputs <= (claimed or factor - 1) <= factor - 1
        ]
        require(
            bool(factors),
            name,
            f"{dropped} of {inputs} inputs dropped at stage {claimed} goes with no condensation factor of {before}",
        )
    return factors


def _with_reduction(layers: Layers, config: ModelConfig) -> ModelConfig:
    """The configuration with the simplest reduction that leads to the channels of the transitions, if there are any."""
    low, high = 0.0, 1.0
    channels, groups = config.stem_channels, config.groups_1x1
    widths = {}
    for block, (depth, rate) in enumerate(zip(config.block_depths, config.growth_rates, strict=True), 1):
        channels += depth * rate
        name = transition(block)
        if name in layers and block < len(config.block_depths):
            wanted = _size(layers, name, "conv.weight", 0)
            low, high = max(low, (wanted - groups) / channels), min(high, wanted / channels)
            require(low < high, name, f"no reduction leads to {wanted} of {channels} channels here and to those before")
            widths[name] = (channels, wanted)
            channels = wanted
    if not widths:
        return config
    for share in (0.5, *(floor(high * 10**digits) / 10**digits for digits in range(10)), high):
        if low < share <= high:
            candidate = replace(config, reduction=share)
            if all(candidate.transition_channels(inputs) == outputs for inputs, outputs in widths.values()):
                return candidate
    name, (inputs, outputs) = next(iter(widths.items()))
    raise ValueError(f"{name} does not fit: no reduction leads to {outputs} of {inputs} channels in {groups} groups")


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
