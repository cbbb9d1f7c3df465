"""What a stage begins with: its setting, and the outputs of earlier stages. What is missing or broken is one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import params as parameters
from tasks import paths
from tasks.errors import UserError
from tasks.params import Params, Setting

if TYPE_CHECKING:
    from condensenet.data import PreparedData
    from condensenet.models.condensenet import CondenseNet


def stage_arguments() -> tuple[Params, Setting]:
    """The parameters and the setting that the command line names."""
    params = parameters.load()
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        module = "tasks." + Path(sys.argv[0]).stem
        raise UserError(f"usage: python -m {module} SETTING, one of {', '.join(params.settings)}")
    return params, params.setting(sys.argv[1])


@contextmanager
def one_line() -> Iterator[None]:
    """What the library refuses, or finds missing, as a ``UserError``."""
    try:
        yield
    except (ValueError, ImportError, FileNotFoundError) as error:
        raise UserError(" ".join(str(error).split())) from error


def read_run(params: Params, setting: Setting) -> dict[str, Any]:
    """The identity of the execution that trained ``setting``: the content of ``run.json``."""
    path = existing(params.paths.setting("train", setting.name) / paths.RUN, f"train@{setting.name}")
    return dict(read_json(path))


def read_model(params: Params, setting: Setting, stage: str = "convert") -> CondenseNet:
    """The model that ``stage`` wrote: train in training form, convert in grouped form."""
    from condensenet.models.storage import load_model

    path = existing(params.paths.setting(stage, setting.name) / paths.MODEL, f"{stage}@{setting.name}")
    with one_line():
        return load_model(path)


def read_data(params: Params, model: CondenseNet) -> PreparedData:
    """The prepared images, which ``model`` must fit."""
    from condensenet.data import PreparedData

    existing(params.paths.data / paths.MANIFEST, "prepare")
    with one_line():
        data = PreparedData(params.paths.data)
        data.manifest.check_model(model.config)
        if len(data.split("test")) == 0:
            raise ValueError(f"{params.paths.data} has no test images: the models cannot be compared")
    return data


def existing(path: Path, stage: str) -> Path:
    """``path``, if ``stage`` has made it."""
    if not path.exists():
        raise UserError(f"{path} is missing: run dvc repro {stage}")
    return path


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
