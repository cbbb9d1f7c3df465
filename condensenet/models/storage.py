"""Models as files: plain data and tensors only, so that they load with ``weights_only=True``.

The same weights give the same bytes. A file is either whole or not there.
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
from condensenet.models.condensenet import CondenseNet, Form

KEYS = {"form", "config", "condensing_stage", "state_dict"}
UNFIT = "Error(s) in loading state_dict for CondenseNet:"  # torch's heading over what does not fit
CODE = re.compile(r"(?<=GLOBAL )[\w.]+|TorchScript")  # in what torch says of a pickle that is more than data


def save_model(model: CondenseNet, path: Path | str) -> None:
    """Write ``model`` (either form) to ``path``."""
    content = {
        "form": model.form,
        "config": dataclasses.asdict(model.config),
        "condensing_stage": model.condensing_stage,
        "state_dict": {name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
    }
    buffer = io.BytesIO()  # saved to a path, torch would write the temporary file's name into the archive
    torch.save(content, buffer)
    write_atomically(Path(path), buffer.getvalue())


def load_model(path: Path | str) -> CondenseNet:
    """The model that ``save_model`` wrote, on the CPU, in evaluation mode.

    Raises ``OSError`` if there is no file to read, ``ValueError`` with one line if it is not such a model.
    """
    content = read_plain(path)
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise ValueError(f"{path} is not a model file of this library: it needs {', '.join(sorted(KEYS))}")
    try:
        return build_model(ModelConfig(**content["config"]), content["form"], content["state_dict"])
    except (AttributeError, TypeError, RuntimeError) as error:  # a field of another version; an unfit tensor
        reason = shorten(str(error).removeprefix(UNFIT), 300)
        raise ValueError(f"{path} does not hold the model that it names: {reason}") from None


def read_plain(path: Path | str) -> Any:
    """What ``torch.save`` wrote, plain data and tensors alone, on the CPU; ``ValueError`` for any other content."""
    return plain(Path(path).read_bytes(), path)


def plain(data: bytes, path: Path | str) -> Any:
    """The same of a file's content that is in memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are then refused
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # for a broken file torch has half a dozen kinds
        code = CODE.search(str(error))
        if code is not None:
            raise ValueError(
                f"{path} names code ({code[0]}), which is never run: only tensors and plain data are read"
            ) from None
        raise ValueError(f"{path} is not a file of plain tensors, or not all of it") from None


def build_model(config: ModelConfig, form: Form, state_dict: dict[str, Any]) -> CondenseNet:
    """A model in evaluation mode that holds these tensors themselves, on their device."""
    model = new_model(config, form)
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


def new_model(config: ModelConfig, form: Form) -> CondenseNet:
    """A model whose weights are about to be replaced: torch's random state is left as it was.

    Not on the meta device, whose first use imports another 4 s of torch.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return CondenseNet(config, form)
