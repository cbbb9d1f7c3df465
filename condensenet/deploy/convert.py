"""Conversion from the training form to the grouped form: index layers and ordinary group convolutions.

The kept weights of every filter are copied unchanged, so the function is the same except for rounding. Paper:
section 4.1, figure 3 (right). Shapes: O outputs, I inputs, G groups, K = O / G filters and R = I / C kept inputs of a
group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condensenet.models.condensenet import CondenseNet
from condensenet.models.condensing import by_group
from condensenet.models.layers import LearnedGroupConv, LearnedGroups, LearnedLinear
from condensenet.models.storage import build_model

State = dict[str, Tensor]
PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")  # of a batch norm


def convert(model: CondenseNet) -> CondenseNet:
    """A new model in grouped form that computes what the condensed ``model`` computes in evaluation.

    Any G and C; with C = 1 a learned group convolution becomes a plain convolution. The result shares no tensor
    with ``model``, is in the same mode (training or evaluation) and has no dropout. Raises ``ValueError`` if
    ``model`` is not fully condensed or is in grouped form already, and ``TypeError`` for any other network.
    """
    if not isinstance(model, CondenseNet):
        raise TypeError(f"convert takes a CondenseNet, not a {type(model).__name__}")
    if model.form != "training":
        raise ValueError("the model is in grouped form already: convert takes the training form")
    if not model.is_condensed:
        raise ValueError(
            f"the model is at condensing stage {model.condensing_stage} of {model.num_condensing_stages}: "
            f"only a fully condensed model can be converted"
        )
    learned = {name: module for name, module in model.named_modules() if isinstance(module, LearnedGroups)}
    state = {
        name: value.detach().clone()
        for name, value in model.state_dict().items()
        if not any(name.startswith(f"{prefix}.") for prefix in learned)
    }
    for prefix, module in learned.items():
        state.update({f"{prefix}.{name}": value for name, value in grouped_state(module).items()})
    grouped = build_model(model.config, "grouped", state).train(model.training)
    grouped.preprocessing, grouped.global_pool = model.preprocessing, model.global_pool
    return grouped


def grouped_state(module: LearnedGroups) -> State:
    """The state of the grouped form of one condensed layer."""
    with torch.no_grad():
        if isinstance(module, LearnedGroupConv):
            return _conv_state(module)
        if isinstance(module, LearnedLinear):
            return _linear_state(module)
    raise TypeError(f"{type(module).__name__} has no grouped form")


def _conv_state(layer: LearnedGroupConv) -> State:
    norm = {f"norm.{name}": value.detach().clone() for name, value in layer.norm.state_dict().items()}
    if layer.condensation_factor == 1:
        return {**norm, "conv.weight": layer.full_weight.detach().clone()}
    kept_GR = layer.kept_inputs()
    index = kept_GR.flatten()
    for name in PER_CHANNEL:
        norm[f"norm.{name}"] = norm[f"norm.{name}"][index]
    return {**norm, "conv.weight": gather_weight(layer.full_weight, kept_GR), "index": index}


def gather_weight(weight: Tensor, kept_GR: Tensor) -> Tensor:
    """Interleaved weights (O, I, 1, 1) to those of a group convolution, (O, R, 1, 1), with filters sorted by group."""
    w_GKI = by_group(weight, len(kept_GR)).transpose(0, 1)
    w_GKR = w_GKI.gather(2, kept_GR[:, None].expand(-1, w_GKI.shape[1], -1))
    return w_GKR.flatten(0, 1)[:, :, None, None].contiguous()


def _linear_state(layer: LearnedLinear) -> State:
    index = layer.kept_inputs().flatten()
    linear: nn.Linear = layer.linear
    return {"index": index, "linear.weight": linear.weight[:, index], "linear.bias": linear.bias.clone()}
