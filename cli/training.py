"""``condensenet train``: a workspace with ``params.yaml``, in which the pipeline's stages run one after the other."""

from __future__ import annotations

import io
import os
import shutil
import time
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cli import finished, recipe
from cli.dataset import Dataset, find, listed, warning
from cli.recipe import Options
from cli.workspaces import as_typed, environment, run_module
from condensenet.config import ModelConfig
from condensenet.machine import usable_cores
from tasks import outputs, params, paths, tracking
from tasks.console import say
from tasks.errors import UserError
from tasks.locks import owned

__all__ = ["Options", "run"]

IN_USE = ".in-use"  # a folder in the workspace, locked by the training that works there
HEADER = (
    "# Written by `condensenet train`. Its stages read it; to change a value, run the command with other options.\n"
)


def run(folder: Path, out: Path | None, options: Options) -> None:
    """Train, convert, export and evaluate. Raises ``UserError`` before work starts; a stage that fails ends us."""
    started = time.monotonic()
    workspace = (out or Path("runs") / recipe.study_name(folder)).resolve()
    _check_workspace(workspace, folder.resolve())  # before the lock makes it
    busy = f"--out {workspace} is in use by another training: wait until it ends, or give another folder"
    with owned(workspace / IN_USE, busy):
        loaded, text = prepare_workspace(workspace, folder, options)
        (setting,) = loaded.settings.values()
        os.environ.update(environment())
        with chdir(workspace), tracking.uploader():  # else every stage would import MLflow
            _run_stages(workspace, text, loaded, setting.name)
        _conclude(workspace, folder, loaded, setting, time.monotonic() - started)


def _run_stages(workspace: Path, text: str, loaded: params.Params, setting: str) -> None:
    run_module("tasks.prepare", [], workspace)
    if finished.check_images(workspace, text, loaded):
        say("trained already: the outputs are brought up to date")
    else:
        run_module("tasks.train", [setting], workspace)
    for stage in ("convert", "export", "evaluate"):
        run_module(f"tasks.{stage}", [setting], workspace)


def prepare_workspace(workspace: Path, folder: Path, options: Options) -> tuple[params.Params, str]:
    """Find the images, choose what is not given and write ``params.yaml``; a mistake leaves no new folder behind."""
    _check_workspace(workspace, folder.resolve())
    is_new = not (workspace / paths.PARAMS).exists()
    try:
        if is_new:
            outputs.write_text(workspace / paths.PARAMS, HEADER)
        initial = None if options.start is None else _initial(options.start)
        dataset = find(folder, workspace)
        loaded, text = _compose(folder, dataset, options, initial)
        _write(workspace, text, None if initial is None else initial.content)
    except BaseException:
        if is_new:
            _remove(workspace)
        raise
    _announce(dataset, loaded)
    return loaded, text


def _remove(workspace: Path) -> None:
    """The lock last: from then on another training may make the folder anew."""
    for entry in workspace.iterdir():
        if entry.is_dir() and entry.name != IN_USE:
            shutil.rmtree(entry)
        elif entry.name != IN_USE:
            entry.unlink()
    shutil.rmtree(workspace, ignore_errors=True)


def _check_workspace(workspace: Path, folder: Path) -> None:
    """It is new, empty or one of ours, and not where the images are."""
    if workspace == folder or folder in workspace.parents:
        raise UserError(f"--out {workspace} is not allowed: it is in the folder of the images; give another folder")
    if workspace.exists() and not is_workspace(workspace) and (not workspace.is_dir() or _holds_something(workspace)):
        raise UserError(f"--out {workspace} is not allowed: it exists and is no workspace of `condensenet train`")


def is_workspace(folder: Path) -> bool:
    """Whether ``condensenet train`` made it."""
    path = folder / paths.PARAMS
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER.encode()


def _holds_something(workspace: Path) -> bool:
    return any(entry.name != IN_USE for entry in workspace.iterdir())


@dataclass(frozen=True)
class Initial:
    """A model to fine-tune: the size of the images that it was trained on, if known, and the content of its file."""

    config: ModelConfig
    image_size: int | None
    content: bytes


def _initial(start: Path) -> Initial:
    from cli.models import pytorch_model
    from condensenet.models.storage import model_file

    model = pytorch_model(str(start))
    if model.form != "training":
        raise UserError(
            f"--from {start} is not allowed: a grouped form cannot be trained; take the one before conversion"
        )
    preprocessing = model.preprocessing
    return Initial(model.config, None if preprocessing is None else preprocessing.image_size, model_file(model))


def _compose(folder: Path, dataset: Dataset, options: Options, initial: Initial | None) -> tuple[params.Params, str]:
    """What ``params.yaml`` means and its text; raises ``UserError``."""
    import torch

    size = options.size or (initial and initial.image_size) or recipe.choose_size(dataset)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        network = recipe.network(dataset, size, options, None if initial is None else initial.config)
        content = recipe.parameters(recipe.study_name(folder), dataset, options, network, size, gpus, usable_cores())
        loaded = params.parse(content)
    except ValueError as error:
        raise UserError(str(error)) from None
    return loaded, HEADER + _as_yaml(content)


def _as_yaml(content: dict[str, Any]) -> str:
    text = io.StringIO()
    YAML().dump(content, text)
    return text.getvalue()


def _write(workspace: Path, text: str, initial: bytes | None) -> None:
    """Put the parameters and what to start from into the workspace, unless a model there was trained with others."""
    finished.check_parameters(workspace, text, initial)
    outputs.write_text(workspace / paths.PARAMS, text)
    if initial is not None:
        from condensenet.files import write_atomically

        write_atomically(workspace / finished.INITIAL, initial)


def _announce(dataset: Dataset, loaded: params.Params) -> None:
    (setting,) = loaded.settings.values()
    model, train, data = setting.model, setting.train, loaded.data
    say(
        f"{dataset.train_images:,} training images of {len(dataset.classes)} classes ({listed(dataset.classes)}), "
        f"used at {data.image_size}x{data.image_size} pixels"
    )
    say(
        f"CondenseNet with blocks of {'-'.join(map(str, model.block_depths))} layers, G={model.groups_1x1}, "
        f"C={model.condensation_factor}; {train.epochs} epochs, batches of {train.batch_size}"
    )
    if (line := warning(dataset)) is not None:
        say(line)


def _conclude(workspace: Path, folder: Path, loaded: params.Params, setting: params.Setting, seconds: float) -> None:
    """Copy the models to the top of the workspace, and say how good they are and what to do with them."""
    study = loaded.paths
    shutil.copyfile(workspace / study.setting("train", setting.name) / paths.MODEL, workspace / paths.MODEL)
    shutil.copyfile(workspace / study.form(setting.name, paths.LOWERED), workspace / paths.ONNX)
    metrics = outputs.read_json(workspace / study.setting("evaluate", setting.name) / paths.METRICS)
    error_pct = metrics["onnxruntime"]["top1_error_pct"]
    where = as_typed(workspace)
    say("")
    say(f"test error {error_pct:.1f}% on {metrics['images']} images, in {seconds:.0f} s")
    say(f"  {where / paths.ONNX}  for ONNX Runtime; {where / paths.MODEL} for PyTorch and to go on from")
    say(f"  condensenet predict {where / paths.ONNX} IMAGE...")
    say(f"  condensenet bench {where / paths.MODEL};  condensenet report {where};  condensenet ui {where}")
