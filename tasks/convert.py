"""convert: the trained model in grouped form, checked for equality, with its cost and the inputs it kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from condensenet.deploy.compare import TOLERANCE
from condensenet.deploy.convert import convert
from condensenet.deploy.cost import count_cost
from condensenet.models.condensenet import CondenseNet
from condensenet.models.condensing import importance
from condensenet.models.layers import LearnedGroups
from condensenet.models.storage import save_model
from tasks import locks, outputs, paths, tracking
from tasks.arguments import stage_arguments
from tasks.console import say
from tasks.errors import UserError, run_main

IMAGES = 8


def main() -> None:
    torch.set_num_threads(1)  # little work, and other settings are converted at the same time
    params, setting = stage_arguments()
    run = outputs.read_run(params, setting)
    folder = params.paths.setting("convert", setting.name)
    with locks.shared_machine():
        model = outputs.read_model(params, setting, "train")
        cost = convert_to(folder, model, params.data.image_size)
        grouped = cost["grouped"]
        say(f"{folder}: {grouped['macs']:,} MACs, {grouped['params']:,} parameters, equal to {TOLERANCE:g}")
        tracking.record(run, "convert")


def convert_to(folder: Path, model: CondenseNet, image_size: int) -> dict[str, Any]:
    """Write the grouped form, ``cost.json`` (returned) and ``kept.json``; nothing if the two forms differ."""
    try:
        grouped = convert(model)
    except ValueError as error:
        raise UserError(f"{folder.name}: {error}") from None
    difference = relative_difference(model, grouped, image_size)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{folder.name}: the grouped form differs by {difference:.2g}; at most {TOLERANCE:g} is allowed"
        )
    cost = {
        "training": dataclasses.asdict(count_cost(model, image_size)),
        "grouped": dataclasses.asdict(count_cost(grouped, image_size)),
        "max_relative_difference": difference,
    }
    save_model(grouped, folder / paths.MODEL)
    outputs.write_json(folder / paths.COST, cost)
    outputs.write_json(folder / paths.KEPT, {"layers": kept_inputs(model)})
    return cost


@torch.inference_mode()
def relative_difference(model: CondenseNet, grouped: CondenseNet, image_size: int) -> float:
    """Largest difference of the two forms' logits for random images, relative to the largest logit."""
    shape = (IMAGES, model.config.in_channels, image_size, image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected, actual = model.eval()(images), grouped.eval()(images)
    return float((actual - expected).abs().max() / expected.abs().max())


def kept_inputs(model: CondenseNet) -> list[dict[str, Any]]:
    """The inputs that each group keeps, for every learned layer in the order of the forward pass.

    ``mean_abs_weight`` belongs to ``kept`` one to one: the mean over the group's filters of the absolute weight.
    """
    return [
        {
            "name": place,
            "groups": layer.groups,
            "in_channels": layer.in_channels,
            "out_channels": layer.out_channels,
            "kept": layer.kept_inputs().tolist(),
            "mean_abs_weight": mean_abs_weight(layer),
        }
        for place, layer in model.named_layers()
        if isinstance(layer, LearnedGroups)
    ]


def mean_abs_weight(layer: LearnedGroups) -> list[list[float]]:
    """How strongly each group reads each input that it keeps, to four digits: lists like ``kept_inputs``."""
    total_GI = importance(layer.full_weight.detach(), layer.groups)
    mean_GR = total_GI.gather(1, layer.kept_inputs()) * layer.groups / layer.out_channels
    return [[float(f"{value:.4g}") for value in group] for group in mean_GR.tolist()]


if __name__ == "__main__":
    run_main(main)
