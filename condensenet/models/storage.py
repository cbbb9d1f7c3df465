"""Model files. They hold only plain data and tensors, so they load with ``weights_only=True``.

The same weights give the same bytes. Files are written atomically. They hold a checksum of the rest, ``sha256``; a file
without that key was written before there was one, and everything else about it is checked all the same.
"""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
from pathlib import Path
from typing import Any, cast

import torch

from condensenet.config import ModelConfig
from condensenet.config.checks import require
from condensenet.files import MAX_BYTES, read_regular, write_atomically
from condensenet.models.condensenet import CondenseNet
from condensenet.models.layers import Form
from condensenet.models.pickles import check_pickles
from condensenet.models.schema import check_state, content_digest
from condensenet.preprocessing import Preprocessing
from condensenet.text import escaped, shown

KEYS = {"form", "config", "condensing_stage", "state_dict"}
PREPROCESSING = "preprocessing"
CHECKSUM = "sha256"
MIN_ITEMSIZE = 2  # bytes of a weight
CODE = re.compile(r"(?<=GLOBAL )[\w.]+|TorchScript")  # in torch's error for a pickle that contains code


def save_model(model: CondenseNet, path: Path | str) -> None:
    """Write ``model`` (either form) to ``path``. Raises ``ValueError`` for values that are not finite."""
    write_atomically(Path(path), model_file(model))


def model_file(model: CondenseNet) -> bytes:
    """What ``save_model`` writes."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} has a value that is not finite")  # no file with one is loaded
    content: dict[str, Any] = {
        "form": model.form,
        "config": dataclasses.asdict(model.config),
        "condensing_stage": model.condensing_stage,
        "state_dict": {name: _plain(value) for name, value in model.state_dict().items()},
    }
    if model.preprocessing is not None:
        content[PREPROCESSING] = model.preprocessing.as_dict()
    content[CHECKSUM] = content_digest(content)
    buffer = io.BytesIO()  # torch would write the name of a temporary file into the archive
    torch.save(content, buffer)
    return buffer.getvalue()


def _plain(value: torch.Tensor) -> torch.Tensor:
    """A copy whose strides follow from its shape, which those of one channel need not: they would be in the file."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def load_model(path: Path | str) -> CondenseNet:
    """Load a model written by ``save_model``, on the CPU and in evaluation mode.

    Raises ``OSError`` if the file cannot be read, and ``ValueError``, in one line, if it is not such a model.
    """
    return parse_model(read_regular(path, MAX_BYTES), path)


def parse_model(data: bytes, path: Path | str) -> CondenseNet:
    """Like ``load_model``, from a file's content in memory; ``path`` names it in errors."""
    content = parse_plain(data, path)
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise ValueError(f"{path} is not a model file of this library: it must hold {', '.join(sorted(KEYS))}")
    try:
        return _model(content, len(data))
    except ValueError as error:
        raise ValueError(f"{path} does not hold the model that its configuration describes: {error}") from None


def _model(content: dict[str, Any], size: int) -> CondenseNet:
    """The model in a file's ``content`` of ``size`` bytes; raises ``ValueError`` that names what is wrong."""
    model = checked_model(content["config"], content["form"], content["state_dict"], size)
    stage = content["condensing_stage"]
    fits = type(stage) is int and stage == model.condensing_stage
    require(fits, f"condensing_stage={shown(stage)} is not that of its masks, {model.condensing_stage}")
    if content.get(PREPROCESSING) is not None:
        model.preprocessing = Preprocessing.from_dict(content[PREPROCESSING])
    if CHECKSUM in content:
        same = content[CHECKSUM] == content_digest(
            {name: content[name] for name in content if name in (*KEYS, PREPROCESSING)}
        )
        require(same, f"{CHECKSUM} differs from what was saved: one of its values was changed")
    return model


def checked_model(config: object, form: object, state: object, size: int) -> CondenseNet:
    """A model in evaluation mode from what a file of ``size`` bytes says of it; ``config`` is a mapping.

    Raises ``ValueError``, which names the entry that is wrong, before much memory is taken.
    """
    checked = _config(config)
    require(form in ("training", "grouped"), f"form={shown(form)} is not allowed: training or grouped")
    weights = checked.num_weights(cast("Form", form))
    require(MIN_ITEMSIZE * weights <= size, f"a file of {size} bytes cannot hold its {weights} weights")
    model = new_model(checked, cast("Form", form))
    check_state(model, state)
    model.load_state_dict(cast("dict[str, Any]", state), assign=True)
    return model.eval()


def _config(values: object) -> ModelConfig:
    require(isinstance(values, dict) and all(isinstance(name, str) for name in values), "config is not a mapping")
    assert isinstance(values, dict)
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in values:
        require(name in names, f"config.{escaped(name)[:100]} is not known: it may be of a later version")
    for name in ("block_depths", "growth_rates"):
        require(name in values, f"config.{name} is missing")
    return ModelConfig(**values)


def read_plain(path: Path | str) -> Any:
    """Read a ``torch.save`` file, on the CPU; raises ``ValueError`` unless it holds only plain data and tensors."""
    return parse_plain(read_regular(path, MAX_BYTES), path)


def parse_plain(data: bytes, path: Path | str) -> Any:
    """Like ``read_plain``, from a file's content in memory; ``path`` names it in errors."""
    try:
        check_pickles(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are rejected anyway
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a broken file
        code = CODE.search(str(error))
        if code is not None:
            raise ValueError(
                f"{path} contains code ({code[0]}), which is never run: only tensors and plain data are read"
            ) from None
        raise ValueError(f"{path} is not a file of plain tensors, or is incomplete") from None


def build_model(config: ModelConfig, form: Form, state_dict: dict[str, Any]) -> CondenseNet:
    """A model in evaluation mode that holds these very tensors, on their device."""
    model = new_model(config, form)
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


def new_model(config: ModelConfig, form: Form) -> CondenseNet:
    """A model whose weights are about to be replaced. torch's random state is left unchanged.

    It is not made on the meta device, because its first use imports 4 s worth of torch.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return CondenseNet(config, form)
