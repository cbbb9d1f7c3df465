"""``load``: every file that the pipeline, this library or the authors' code writes, by one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from condensenet.data.manifest import MANIFEST
from condensenet.deploy.onnx_model import OnnxModel
from condensenet.interop.hub import CONFIG, WEIGHTS, from_pretrained
from condensenet.interop.layout import CHECKPOINT_KEYS
from condensenet.interop.loading import load_authors_checkpoint
from condensenet.models.condensenet import CondenseNet
from condensenet.models.presets import HUB_PREFIX, presets
from condensenet.models.registry import no_weights
from condensenet.models.storage import KEYS, checked_model, load_model, read_plain

MODEL = "model.pt"
ONNX = "model.onnx"
OTHER_FILES = {  # what the pipeline writes beside models, by name
    MANIFEST: "the manifest of prepared images: PreparedData(FOLDER) reads them",
    "plan.json": "the plan of a lowered form: Plan.load(PATH) reads it",
    "run.json": "the identity of a training, not its weights: they are in model.pt beside it",
    "kept.json": "the inputs that each group keeps, not weights: they are in model.pt beside it",
    "export.json": "about exported files, not weights: they are in model.onnx beside it",
    "latency.json": "measured latencies, not weights",
    "cost.json": "the cost of a network, not weights",
    "metrics.json": "figures of a stage, not weights",
}


def load(path_or_name: str | Path) -> CondenseNet | OnnxModel:
    """The network in a file or folder, in evaluation mode on the CPU.

    - ``model.pt`` of training or conversion, or another file of ``save_model``; a folder with one;
    - a checkpoint of a training in progress (``state/train/.../checkpoint-*.pt``): its weights at that step;
    - a checkpoint of the authors' code whose configuration follows from the file (else ``load_authors_checkpoint``);
    - a folder of ``save_pretrained``, or ``hf-hub:OWNER/NAME`` with huggingface_hub;
    - an ONNX file of this package, in any form, as an ``OnnxModel``; a folder with ``model.onnx`` and neither of the
      others, such as a release.

    Raises ``ValueError``, in one line that says what it is, for any other file and for the name of a network, which
    has no published weights; ``FileNotFoundError`` if there is no such file.
    """
    name = str(path_or_name)
    if name.startswith(HUB_PREFIX):
        return from_pretrained(name.removeprefix(HUB_PREFIX))
    path = Path(path_or_name)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        if name in presets:
            raise ValueError(no_weights(name))
        raise FileNotFoundError(f"{path} does not exist: a file, a folder or {HUB_PREFIX}OWNER/NAME is needed")
    if path.name in OTHER_FILES:
        raise ValueError(f"{path} holds no network: it is {OTHER_FILES[path.name]}")
    if path.suffix == ".onnx":
        return OnnxModel(path)
    if path.suffix == ".safetensors":
        if path.name != WEIGHTS:
            raise ValueError(f"{path} cannot be loaded by itself: its folder must hold {WEIGHTS} and {CONFIG}")
        return from_pretrained(path.parent)
    return _load_tensors(path)


def _load_folder(folder: Path) -> CondenseNet | OnnxModel:
    if (folder / MODEL).is_file():
        return load_model(folder / MODEL)
    if (folder / CONFIG).is_file():
        return from_pretrained(folder)
    if (folder / ONNX).is_file():
        return OnnxModel(folder / ONNX)
    raise ValueError(f"{folder} holds no network: none of {MODEL}, {CONFIG} and {ONNX} is in it")


def _load_tensors(path: Path) -> CondenseNet:
    content = read_plain(path)
    if isinstance(content, dict) and content.keys() >= KEYS:
        return load_model(path)
    if isinstance(content, dict) and content.keys() >= CHECKPOINT_KEYS:
        return _load_checkpoint(content, path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no network: it is a {type(content).__name__}")
    try:
        return load_authors_checkpoint(content)
    except ValueError as error:
        raise ValueError(
            f"{path} is neither a model of this library nor one that the authors' code wrote: {error}"
        ) from None


def _load_checkpoint(content: dict[str, Any], path: Path) -> CondenseNet:
    """The model of a training in progress: the fingerprint holds its configuration."""
    fingerprint, trainer = content["fingerprint"], content["trainer"]
    if not isinstance(fingerprint, dict) or not isinstance(trainer, dict) or "model" not in trainer:
        raise ValueError(f"{path} is not a checkpoint of this library: it has no model or no configuration")
    config = {
        str(name).removeprefix("model."): value for name, value in fingerprint.items() if str(name).startswith("model.")
    }
    try:
        return checked_model(config, "training", trainer["model"], path.stat().st_size)
    except ValueError as error:
        raise ValueError(f"{path} does not hold the model that its configuration describes: {error}") from None
