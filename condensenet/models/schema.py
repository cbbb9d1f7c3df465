"""What the entries of a file must be, told by an example of the same structure. Every refusal names the entry."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from condensenet.config.checks import require
from condensenet.models.layers import CondensedGroupConv, CondensedLinear, LearnedGroups
from condensenet.text import escaped, shown

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # of a model's weights, all of them the same


def check_like(name: str, value: object, example: object) -> None:
    """Raise ``ValueError`` unless ``value``, called ``name``, has the structure of ``example``.

    Mappings have the same keys, lists the same length, tensors the same shape and type, dense and finite. A number is
    finite and not negative; where the example has an integer, it is one.
    """
    if isinstance(example, Mapping):
        require(isinstance(value, Mapping), f"{name} is {_kind(value)}, not a mapping")
        assert isinstance(value, Mapping)
        for key in [*(key for key in example if key not in value), *(key for key in value if key not in example)]:
            word = "missing" if key in example else "not known"
            raise ValueError(f"{_join(name, key)} is {word}")
        for key, inner in example.items():
            check_like(_join(name, key), value[key], inner)
    elif isinstance(example, list):
        fits = isinstance(value, list) and len(value) == len(example)
        require(fits, f"{name} is {_kind(value)}, not a list of {len(example)}")
        assert isinstance(value, list)
        for index, inner in enumerate(example):
            check_like(f"{name}.{index}", value[index], inner)
    elif isinstance(example, Tensor):
        check_tensor(name, value, tuple(example.shape), example.dtype)
    else:
        kinds = (int,) if type(example) is int else (int, float)
        fits = type(value) in kinds and 0 <= value <= sys.float_info.max  # type: ignore[operator]
        require(fits, f"{name}={shown(value)} is not allowed: a finite number, 0 or more, is needed")


def check_tensor(name: str, value: object, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise ``ValueError`` unless ``value`` is a dense, finite tensor of this shape and type, with all its memory."""
    require(isinstance(value, Tensor), f"{name} is {_kind(value)}, not a tensor")
    assert isinstance(value, Tensor)
    require(value.layout is torch.strided, f"{name} is {_kind(value)}, not dense")
    require(tuple(value.shape) == shape, f"{name} has shape {tuple(value.shape)}, not {shape}")
    require(value.dtype is dtype, f"{name} is {_kind(value)}, not {str(dtype).removeprefix('torch.')}")
    require(value.device.type != "meta", f"{name} has no values")
    whole = value.numel() * value.itemsize <= value.untyped_storage().nbytes()
    require(whole, f"{name} repeats some of its values")
    require(not dtype.is_floating_point or bool(value.isfinite().all()), f"{name} has a value that is not finite")


def check_state(model: torch.nn.Module, state: object) -> None:
    """Raise ``ValueError`` unless ``state`` can be the state dict of ``model``: types, shapes and ranges.

    Weights may have another floating-point type than the model's, but then all of them have it.
    """
    example = model.state_dict()
    require(isinstance(state, Mapping), f"state_dict is {_kind(state)}, not a mapping")
    assert isinstance(state, Mapping)
    dtype = next((v.dtype for v in state.values() if isinstance(v, Tensor) and v.dtype in FLOATS), torch.float32)
    check_like("state_dict", state, {k: v.to(dtype) if v.is_floating_point() else v for k, v in example.items()})
    check_ranges("state_dict", model, state)


def check_ranges(name: str, model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` for values that no state dict of ``model`` has; messages call it ``name``."""
    for entry, value in state.items():
        if entry.endswith((".running_var", ".num_batches_tracked")):
            require(bool((value >= 0).all()), f"{name}.{entry} has a negative value")
    for path, module in model.named_modules():
        if isinstance(module, LearnedGroups):
            _check_mask(f"{name}.{path}.group_mask", state[f"{path}.group_mask"], module)
        elif isinstance(module, CondensedGroupConv | CondensedLinear):
            inputs = module.in_channels if isinstance(module, CondensedGroupConv) else module.in_features
            index = state[f"{path}.index"]
            inside = bool(((index >= 0) & (index < inputs)).all())
            require(inside, f"{name}.{path}.index has a value outside of [0, {inputs})")


def _check_mask(name: str, mask: Tensor, layer: LearnedGroups) -> None:
    kept = sorted(set(mask.sum(dim=1).tolist()))
    least = layer.in_channels - layer.dropped_by_stage[-1]
    fits = len(kept) == 1 and kept[0] >= least
    require(
        fits,
        f"{name} keeps {' and '.join(map(str, kept))} inputs per group: equal numbers of {least} or more are needed",
    )


def content_digest(content: Mapping[str, Any]) -> str:
    """sha256 of plain data and of tensors by name, type, shape and values: the same however a file stores them."""
    digest = hashlib.sha256()
    for name, value in sorted(content.items()):
        digest.update(f"{name}\0".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {list(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            digest.update(content_digest(value).encode())
        else:
            digest.update(json.dumps(value).encode())
    return digest.hexdigest()


def _join(name: str, key: object) -> str:
    return f"{name}.{escaped(str(key))[:200]}" if name else escaped(str(key))[:200]


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        layout = "" if value.layout is torch.strided else f"{value.layout} ".removeprefix("torch.").replace("_", " ")
        return f"{layout}{value.dtype}".replace("torch.", "")
    return type(value).__name__
