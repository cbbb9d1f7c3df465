"""From this package's networks to the authors' checkpoints."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condensenet.deploy.convert import PER_CHANNEL, gather_weight
from condensenet.files import write_atomically
from condensenet.interop.layout import State, named_layers
from condensenet.models import condensing
from condensenet.models.condensenet import CondenseNet
from condensenet.models.layers import LearnedGroupConv, LearnedLinear, NormReluConv
from condensenet.models.storage import build_model


def save_authors_checkpoint(model: CondenseNet, path: str | os.PathLike[str], *, epoch: int = -1) -> None:
    """Write ``model``, either form, to ``path`` as a checkpoint that the authors' ``main.py`` loads.

    A training form works with ``--evaluate-from``, ``--convert-from`` and, if named in ``save_models/latest.txt``,
    ``--resume``, which continues at epoch ``epoch + 1`` with zero momentum and their default optimizer settings.
    A converted form works with ``--model condensenet_converted --evaluate-from`` if G = C and there is no reduction.
    For others their code has no class, but their network loads the file after their ``convert_model``. PyTorch 1.1
    and later read the file, also with ``weights_only=True``. It is written atomically.

    Their format lacks:

    - the configuration: it is given on their command line (``--stages``, ``--growth``, ``--group-1x1``, ...). Their
      ``main.py`` allows 10, 100 and 1000 classes, and ends in 8x8 (CIFAR) or 7x7 pooling, so images of 32 or 224
      pixels need 3 or 5 blocks; their network classes take any number of classes;
    - the mask of a classifier that is condensed in training form: its dropped weights are written as zeros, which
      keeps the function (and their conversion, which halves the classifier, drops exactly these).

    Raises ``ValueError`` for what their networks do not support: an input of other than 3 channels, another kind of
    first convolution, and a converted form with a full classifier, which ``halve_classifier`` can halve.
    """
    if not isinstance(model, CondenseNet):
        raise TypeError(f"save_authors_checkpoint takes a CondenseNet, not a {type(model).__name__}")
    if model.config.in_channels != 3:
        raise ValueError(f"in_channels={model.config.in_channels} is not allowed: the authors' networks take 3")
    if model.form == "grouped" and isinstance(model.classifier, nn.Linear):
        raise ValueError(
            "the classifier is not halved, as it is in every converted form of the authors: "
            "save the training form, or what condensenet.interop.halve_classifier(model) returns, whose logits differ"
        )
    state = {f"module.{name}": _portable(value) for name, value in authors_state_dict(model).items()}
    content = {
        "epoch": epoch,
        "model": _their_class(model),
        "state_dict": state,
        "best_prec1": 0.0,
        "optimizer": _fresh_optimizer(sum(name.endswith((".weight", ".bias")) for name in state)),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)  # the only format that PyTorch 1.1 reads
    write_atomically(Path(path), buffer.getvalue())


def authors_state_dict(model: CondenseNet) -> State:
    """The state dict of ``model``, either form, under the authors' names, without ``module.`` prefix.

    Their layout has no mask for the classifier of a training form: its dropped weights are written as zeros. Raises
    ``ValueError`` if the stem is not of their kind.
    """
    state: State = {}
    for theirs, ours, module in named_layers(model):
        tensors: dict[str, Any]
        if isinstance(module, LearnedGroupConv):
            tensors = {name: value for name, value in module.state_dict().items() if name != "group_mask"}
            tensors["_mask"] = module.mask.to(module.full_weight.dtype)
            tensors["_count"] = torch.tensor([float(module.num_dropped)])
            tensors["_stage"] = torch.tensor([float(min(module.condensing_stage, module.condensation_factor - 1))])
        elif isinstance(module, LearnedLinear):
            tensors = {"weight": module.weight_in_use(), "bias": module.linear.bias}
        elif isinstance(module, NormReluConv) and ours.endswith("conv_1x1"):
            tensors = _gather_every_input(module, model.config.groups_1x1)
        else:
            tensors = module.state_dict()
        state.update({f"{theirs}.{name}": value.detach().clone() for name, value in tensors.items()})
    return state


def halve_classifier(model: CondenseNet) -> CondenseNet:
    """A new model whose classifier keeps the half of its inputs with the largest L1 norms, without training.

    The authors' conversion does the same. The logits change. Takes either form; raises ``ValueError`` if the classifier
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
    halved = build_model(config, model.form, state).train(model.training)
    halved.preprocessing, halved.global_pool = model.preprocessing, model.global_pool
    return halved


def _gather_every_input(module: NormReluConv, groups: int) -> State:
    """The authors' converted layer for C = 1: every group gathers all inputs, and filters are sorted by group."""
    every_GI = torch.arange(module.conv.in_channels, device=module.conv.weight.device).repeat(groups, 1)
    norm = {f"norm.{name}": value for name, value in module.norm.state_dict().items()}
    for name in PER_CHANNEL:
        norm[f"norm.{name}"] = norm[f"norm.{name}"][every_GI.flatten()]
    weight = gather_weight(module.conv.weight.detach(), every_GI)
    return {**norm, "conv.weight": weight, "index": every_GI.flatten()}


def _their_class(model: CondenseNet) -> str:
    if model.config.reduction is not None:
        return "densenet_LGC"
    return "condensenet" if model.form == "training" else "condensenet_converted"


def _portable(value: Tensor) -> Tensor:
    """On the CPU, of a type that every PyTorch version supports."""
    return value.to("cpu", torch.float32 if value.is_floating_point() else value.dtype).contiguous()


def _fresh_optimizer(num_parameters: int) -> dict[str, Any]:
    """The state of their optimizer before the first step, with the defaults of their command line."""
    settings = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 1e-4, "nesterov": True}
    return {"state": {}, "param_groups": [{**settings, "params": list(range(num_parameters))}]}
