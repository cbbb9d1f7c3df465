"""Fine-tuning: starting a training from the weights of another network of the same architecture."""

from __future__ import annotations

import dataclasses

from condensenet.config import ModelConfig
from condensenet.models.condensenet import CondenseNet

FREE = ("num_classes", "dropout")  # fields in which the two networks may differ


def start_from(model: CondenseNet, trained: CondenseNet) -> None:
    """Copy the weights and masks of ``trained`` into ``model``, in place.

    A classifier for another number of classes keeps its random weights. What ``trained`` has pruned stays pruned:
    training goes on from its condensing stage. Raises ``ValueError`` as ``check_start`` does.
    """
    check_start(model.config, trained)
    state = trained.state_dict()
    if model.num_classes != trained.num_classes:
        own = {name: value for name, value in model.state_dict().items() if name.startswith("classifier.")}
        state = {**{name: value for name, value in state.items() if not name.startswith("classifier.")}, **own}
    model.load_state_dict(state)


def check_start(config: ModelConfig, trained: CondenseNet) -> None:
    """Raise ``ValueError`` unless a network of ``config`` can start from ``trained``."""
    if trained.form != "training":
        raise ValueError("a grouped form cannot be trained further: start from the training form, before conversion")
    for field in dataclasses.fields(ModelConfig):
        ours, theirs = getattr(config, field.name), getattr(trained.config, field.name)
        if ours != theirs and field.name not in FREE:
            raise ValueError(f"{field.name}={ours} is not allowed: the network to start from has {theirs}")
