"""The configuration of an authors' checkpoint, inferred from its tensors, and what they leave open.

Only the first layer of each kind is read here; loading then checks every layer against the result.
Shapes: O outputs, I inputs, G groups, R = I / C inputs that a group keeps after pruning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import floor, gcd, isqrt, lcm, lgamma, log, log10
from statistics import mode
from typing import Any

from torch import Tensor

from condensenet.config import ModelConfig
from condensenet.config.bounds import MAX_CHANNELS, MAX_CLASSES
from condensenet.interop.layout import Layers, dense_layer, form_of, layers_by_block, require, transition

MAX_CHANCE = 1e-6  # masks that repeat with a smaller probability do not repeat by chance
STEMS = {(3, 10): "cifar", (3, 100): "cifar", (5, 1000): "imagenet"}  # by blocks and classes, as in their main.py


def infer_config(layers: Layers, given: Mapping[str, Any]) -> ModelConfig:
    """The configuration of these layers; ``given`` are fields that the caller sets.

    Raises ``ValueError`` naming the first layer that is inconsistent, or all fields that the caller has to set.
    """
    fields, missing = _shapes(layers), {}
    stem = STEMS.get((len(fields["block_depths"]), fields["num_classes"]))
    if stem is None:
        missing["stem"] = (
            f"no tensor holds its stride, and {len(fields['block_depths'])} blocks with {fields['num_classes']} "
            f"classes are neither the authors' CIFAR networks (3 blocks, 10 or 100 classes) nor their ImageNet ones "
            f"(5 blocks, 1000 classes): 'cifar' is stride 1, 'imagenet' stride 2"
        )
    fields["stem"] = stem
    if form_of(layers) == "grouped":
        fields.update(_groups_of_index(layers))
    else:
        fields.update(_groups_of_masks(layers, missing))
    fields.update(given)
    _check_complete({name: reason for name, reason in missing.items() if name not in given})
    return _with_reduction(layers, ModelConfig(**fields))


def infer_groups(masks: Iterable[Tensor]) -> tuple[int, bool]:
    """(the least number of groups that explains these masks, whether a larger one is too improbable).

    Each mask is (rows, I), boolean, True for kept; its rows repeat with the number of groups as their period.
    """
    groups, log_chance = 1, 0.0
    for mask in masks:
        kept = int(mask[0].sum())
        if kept < mask.shape[1]:
            period = _period(mask)
            groups = lcm(groups, period)
            log_chance -= period * _log10_choices(mask.shape[1], kept)
    return groups, log_chance < log10(MAX_CHANCE)


def _log10_choices(inputs: int, kept: int) -> float:
    """The logarithm of the binomial coefficient, without its digits."""
    return (lgamma(inputs + 1) - lgamma(kept + 1) - lgamma(inputs - kept + 1)) / log(10)


def _period(mask: Tensor) -> int:
    """The number of rows after which the mask repeats."""
    return next(p for p in _divisors(len(mask)) if bool((mask == mask[:p].repeat(len(mask) // p, 1)).all()))


def _check_complete(missing: Mapping[str, str]) -> None:
    if missing:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
        call = ", ".join(f"{name}=..." for name in missing)
        raise ValueError(
            f"the checkpoint does not tell {reasons}: "
            f"call load_authors_checkpoint(checkpoint, {call}), or pass a complete config"
        )


def _shapes(layers: Layers) -> dict[str, Any]:
    """The fields that follow from shapes alone, in the training form and in the converted one."""
    depths = _block_depths(layers)
    rates = tuple(_size(layers, dense_layer(block, 1, 2), "conv.weight", 0) for block in range(1, len(depths) + 1))
    conv_1, conv_2 = dense_layer(1, 1, 1), dense_layer(1, 1, 2)
    stem, width = _size(layers, "features.init_conv", "weight", 0), _size(layers, conv_1, "conv.weight", 0)
    message = f"its {stem} outputs are not twice the {rates[0]} outputs of {conv_2}"
    require(stem == 2 * rates[0], "features.init_conv", message)
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
    """One dimension of the weights of a convolution or linear layer."""
    require(layer in layers, layer, "the checkpoint lacks it")
    require(name in layers[layer], layer, f"{name} is missing")
    shape, rank = tuple(layers[layer][name].shape), 2 if layer == "classifier" else 4
    require(len(shape) == rank and min(shape) > 0, layer, f"{name} has shape {shape}, not of {rank} dimensions")
    limit = MAX_CLASSES if layer == "classifier" else MAX_CHANNELS
    require(max(shape) <= limit, layer, f"{name} has shape {shape}: {limit} is the largest size allowed")
    return shape[axis]


def _quotient(layer: str, what: str, value: int, by: int, of: str = "the inputs of a filter") -> int:
    require(value % by == 0, layer, f"its {value} {what} are not a multiple of {by}, {of}")
    return value // by


def _groups_of_index(layers: Layers) -> dict[str, int]:
    """G and C: the index has G * R entries, a filter R inputs, and the first layer reads all outputs of the stem."""
    layer = dense_layer(1, 1, 1)
    require("index" in layers[layer], layer, "index is missing")
    inputs, kept = _size(layers, "features.init_conv", "weight", 0), _size(layers, layer, "conv.weight", 1)
    gathered = layers[layer]["index"].numel()
    require(gathered > 0, layer, "index is empty")
    return {
        "groups_1x1": _quotient(layer, "entries of index", gathered, kept),
        "condensation_factor": _quotient(layer, "inputs", inputs, kept),
    }


def _groups_of_masks(layers: Layers, missing: dict[str, str]) -> dict[str, int]:
    """G and C as far as they follow from the masks of a training form; else the reason is put into ``missing``."""
    masks = {name: tensors["_mask"] for name, tensors in layers.items() if "_mask" in tensors}
    if not masks:
        return _groups_of_densenet(layers)
    for name, mask in masks.items():
        shape = tuple(_size(layers, name, "conv.weight", axis) for axis in range(4))
        require(tuple(mask.shape) == shape, name, f"_mask has shape {tuple(mask.shape)}, conv.weight {shape}")
    kept = {name: mask.flatten(1) != 0 for name, mask in masks.items()}
    fields: dict[str, int] = {}
    groups, certain = infer_groups(kept.values())
    if gcd(*(size for mask in kept.values() for size in mask.shape)) % groups:  # a broken mask, reported by loading
        groups = mode(_period(mask) for mask in kept.values() if not mask.all())
    if certain:
        fields["groups_1x1"] = groups
    elif all(bool(mask.all()) for mask in kept.values()):
        missing["groups_1x1"] = "nothing is dropped yet: it changes no logits now, but what will be dropped"
    else:
        missing["groups_1x1"] = f"the masks are of {groups} groups, but so few could be of more by chance"
    *others, last = _possible_factors(layers, kept)
    if others:
        missing["condensation_factor"] = f"{', '.join(map(str, others))} and {last} lead to these masks"
    else:
        fields["condensation_factor"] = last
    return fields


def _groups_of_densenet(layers: Layers) -> dict[str, int]:
    """Of the authors' plain DenseNet, which has neither mask nor index."""
    first = dense_layer(1, 1, 1)
    inputs, read = _size(layers, "features.init_conv", "weight", 0), _size(layers, first, "conv.weight", 1)
    message = f"a filter reads {read} of {inputs} inputs without mask or index: an ordinary group convolution"
    require(inputs == read, first, message)
    return {"groups_1x1": 1, "condensation_factor": 1}


def _possible_factors(layers: Layers, kept: Mapping[str, Tensor]) -> list[int]:
    """Every C that leads to the masks of all layers, at the condensing stage that each states or an earlier one.

    Earlier, because the authors' code drops too little after a skipped stage. A stage of 0 states nothing.
    """
    factors = _divisors(gcd(*(mask.shape[1] for mask in kept.values())))
    for name, mask in kept.items():
        inputs, dropped = mask.shape[1], int((~mask[0]).sum())
        stage = layers[name].get("_stage")
        stated = 0 if stage is None or stage.numel() != 1 else int(stage.nan_to_num().item())
        before = factors
        factors = [
            factor
            for factor in before
            if dropped * factor % inputs == 0 and dropped * factor // inputs <= (stated or factor - 1) <= factor - 1
        ]
        require(
            bool(factors),
            name,
            f"{dropped} of {inputs} inputs dropped at stage {stated} goes with no condensation factor of {before}",
        )
    return factors


def _with_reduction(layers: Layers, config: ModelConfig) -> ModelConfig:
    """``config`` with the simplest reduction that gives the channels of the transitions, if there are any."""
    low, high = 0.0, 1.0
    channels, groups = config.stem_channels, config.groups_1x1
    widths = {}
    for block, (depth, rate) in enumerate(zip(config.block_depths, config.growth_rates, strict=True), 1):
        channels += depth * rate
        name = transition(block)
        if name in layers and block < len(config.block_depths):
            outputs = _size(layers, name, "conv.weight", 0)
            low, high = max(low, (outputs - groups) / channels), min(high, outputs / channels)
            require(
                low < high, name, f"no reduction leads to {outputs} of {channels} channels here and to those before"
            )
            widths[name] = (channels, outputs)
            channels = outputs
    if not widths:
        return config
    for reduction in (0.5, *(floor(high * 10**digits) / 10**digits for digits in range(10)), high):
        if low < reduction <= high:
            candidate = replace(config, reduction=reduction)
            if all(candidate.transition_channels(inputs) == outputs for inputs, outputs in widths.values()):
                return candidate
    name, (inputs, outputs) = next(iter(widths.items()))
    raise ValueError(f"{name} does not fit: no reduction leads to {outputs} of {inputs} channels in {groups} groups")


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})
