"""Model files. They hold only plain data and tensors, so they load with ``weights_only=True``.

The same weights give the same bytes. Files are written atomically.
"""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from condensenet.config import ModelConfig
from condensenet.files import write_atomically
from condensenet.models.condensenet import CondenseNet
from condensenet.models.layers import Form
from condensenet.preprocessing import Preprocessing

KEYS = {"form", "config", "condensing_stage", "state_dict"}
LOADING_ERROR = "Error(s) in loading state_dict for CondenseNet:"  # torch's heading above the mismatches
CODE = re.compile(r"(?<=GLOBAL )[\w.]+|TorchScript")  # in torch's error for a pickle that contains code


def save_model(model: CondenseNet, path: Path | str) -> None:
    """Write ``model`` (either form) to ``path``."""
    write_atomically(Path(path), model_file(model))


def model_file(model: CondenseNet) -> bytes:
    """What ``save_model`` writes."""
    content = {
        "form": model.form,
        "config": dataclasses.asdict(model.config),
        "condensing_stage": model.condensing_stage,
        "state_dict": {name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
    }
    if model.preprocessing is not None:
        content["preprocessing"] = model.preprocessing.as_dict()
    buffer = io.BytesIO()  # torch would write the name of a temporary file into the archive
    torch.save(content, buffer)
    return buffer.getvalue()


def load_model(path: Path | str) -> CondenseNet:
    """Load a model written by ``save_model``, on the CPU and in evaluation mode.

    Raises ``OSError`` if the file cannot be read, and ``ValueError``, in one line, if it is not such a model.
    """
    return parse_model(Path(path).read_bytes(), path)


def parse_model(data: bytes, path: Path | str) -> CondenseNet:
    """Like ``load_model``, from a file's content in memory; ``path`` names it in errors."""
    content = parse_plain(data, path)
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise ValueError(f"{path} is not a model file of this library: it must hold {', '.join(sorted(KEYS))}")
    try:
        model = build_model(ModelConfig(**content["config"]), content["form"], content["state_dict"])
    except (AttributeError, TypeError, RuntimeError) as error:  # another version's field; a wrong shape
        reason = shorten(str(error).removeprefix(LOADING_ERROR), 300)
        raise ValueError(f"{path} does not hold the model that its configuration describes: {reason}") from None
    if content.get("preprocessing") is not None:
        model.preprocessing = Preprocessing.from_dict(content["preprocessing"])
    return model


def read_plain(path: Path | str) -> Any:
    """Read a ``torch.save`` file, on the CPU; raises ``ValueError`` unless it holds only plain data and tensors."""
    return parse_plain(Path(path).read_bytes(), path)


def parse_plain(data: bytes, path: Path | str) -> Any:
    """Like ``read_plain``, from a file's content in memory; ``path`` names it in errors."""
    try:
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
