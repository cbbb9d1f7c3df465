"""``condensenet cost``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from cli.models import default_size
from cli.names import is_preset
from condensenet import CondenseNet, Cost, OnnxModel, count_cost, create_model, load
from tasks.console import say
from tasks.errors import UserError


def run(name: str, size: int | None, groups: int | None, condensation: int | None, as_json: bool) -> None:
    given = {"groups_1x1": groups, "condensation_factor": condensation}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if changes and not is_preset(name):
        raise UserError("--groups and --condensation go with a network's name: a file has its own G and C")
    model = create_model(name, **changes) if is_preset(name) else load(name)
    facts = _of_onnx(model, name, size) if isinstance(model, OnnxModel) else _of_network(model, size)
    if as_json:
        print(json.dumps({"model": name, **facts}, indent=1))
        return
    height, width = facts["input_size"]
    say(f"{name}, {height}x{width} pixels, G={facts['groups_1x1']}, C={facts['condensation_factor']}")
    print(f"  MACs              {facts['macs']:>15,}   multiply-adds of convolutions and linear layers")
    print(f"  the paper's FLOPs {facts['paper_flops']:>15,}   and biases, activations, average pools")
    print(f"  parameters        {facts['params']:>15,}   after pruning")


def _of_network(model: CondenseNet, size: int | None) -> dict[str, Any]:
    side = size or default_size(model)
    return {
        "input_size": [side, side],
        "groups_1x1": model.config.groups_1x1,
        "condensation_factor": model.config.condensation_factor,
        **dataclasses.asdict(count_cost(model, side)),
    }


def _of_onnx(model: OnnxModel, name: str, size: int | None) -> dict[str, Any]:
    """What the file says of itself: its graph may be lowered to other operators."""
    keys = ("groups_1x1", "condensation_factor", *(field.name for field in dataclasses.fields(Cost)))
    if missing := [key for key in keys if key not in model.metadata]:
        raise UserError(f"{name} does not say its cost (metadata {', '.join(missing)}): ask for that of its model.pt")
    _, height, width = model.image_shape
    if size is not None and [size, size] != [height, width]:
        raise UserError(f"--size {size} is not allowed: {name} takes images of {height}x{width} pixels")
    return {"input_size": [height, width], **{key: int(model.metadata[key]) for key in keys}}
