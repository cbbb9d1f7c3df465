"""Folders in the layout of the Hugging Face Hub: ``config.json``, ``model.safetensors`` and a model card.

Needs safetensors, and huggingface_hub to download or upload: ``pip install 'condensenet[hub]'``.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from condensenet.deploy.cost import count_cost
from condensenet.files import MAX_BYTES, read_regular, write_atomically
from condensenet.models.condensenet import CondenseNet
from condensenet.models.presets import HUB_PREFIX
from condensenet.models.storage import checked_model
from condensenet.preprocessing import Preprocessing
from condensenet.text import message_of

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
MAX_CONFIG_BYTES = 2**28  # the names of a million classes take a tenth of it


def save_pretrained(model: CondenseNet, folder: str | Path) -> Path:
    """Write ``model``, either form, with its configuration and preprocessing; returns the folder.

    A model card is written unless the folder has a ``README.md``. Raises ``ImportError`` without safetensors.
    """
    safetensors, folder = _optional("safetensors.torch"), Path(folder)
    config = {
        "library_name": "condensenet",
        "form": model.form,
        "config": dataclasses.asdict(model.config),
        "preprocessing": None if model.preprocessing is None else model.preprocessing.as_dict(),
    }
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write_atomically(folder / CONFIG, (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomically(folder / WEIGHTS, safetensors.save(tensors))
    if not (folder / CARD).exists():
        write_atomically(folder / CARD, model_card(model, str(folder)).encode())
    return folder


def from_pretrained(name_or_folder: str | Path, *, revision: str | None = None) -> CondenseNet:
    """The model of a folder of ``save_pretrained``, or of the repository OWNER/NAME of the Hub, in evaluation mode.

    Raises ``ImportError`` without safetensors (or huggingface_hub, for a repository), ``ValueError`` for a folder
    that holds no such model, and huggingface_hub's errors for a repository that cannot be downloaded.
    """
    safetensors = _optional("safetensors.torch")
    folder = Path(name_or_folder)
    if not folder.is_dir():
        hub = _optional("huggingface_hub")
        files = [CONFIG, WEIGHTS]
        folder = Path(hub.snapshot_download(str(name_or_folder), revision=revision, allow_patterns=files))
    try:
        content = json.loads(read_regular(folder / CONFIG, MAX_CONFIG_BYTES))
        weights = read_regular(folder / WEIGHTS, MAX_BYTES)
        model = checked_model(content["config"], content["form"], safetensors.load(weights), len(weights))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no model: {Path(str(error.filename)).name} is missing") from None
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors_error()) as error:
        raise ValueError(f"{folder} does not hold a model of this library: {message_of(error)}") from None
    if content.get("preprocessing") is not None:
        model.preprocessing = Preprocessing.from_dict(content["preprocessing"])
    return model


def push_to_hub(
    model: CondenseNet,
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    license: str | None = None,
) -> str:
    """Upload ``model`` to the repository OWNER/NAME of the Hub, which is made if need be; returns its address.

    A model card is uploaded unless the repository has a ``README.md``; ``license`` is the Hub's name of one. Raises
    ``ImportError`` without huggingface_hub and safetensors, and huggingface_hub's own errors.
    """
    hub = _optional("huggingface_hub")
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        address = api.create_repo(repository, private=private, exist_ok=True)
        has_card = api.file_exists(repository, CARD)
        card = Path(folder) / CARD
        card.write_text(model_card(model, f"{HUB_PREFIX}{repository}", license), encoding="utf-8")
        save_pretrained(model, folder)
        if has_card:
            card.unlink()
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a CondenseNet")
    return str(address)


def model_card(model: CondenseNet, source: str, license: str | None = None) -> str:
    """The text of ``README.md`` for the Hub: what the network is and how to use it, no figures that nobody measured.

    ``source`` is what ``load`` takes, ``license`` the Hub's name of one.
    """
    config, preprocessing = model.config, model.preprocessing
    lines = [
        "---",
        "library_name: condensenet",
        "pipeline_tag: image-classification",
        *([f"license: {license}"] if license else []),
        "---",
        "",
        f"# CondenseNet, {config.num_classes} classes",
        "",
        f"A [CondenseNet](https://arxiv.org/abs/1711.09224) in {model.form} form with G={config.groups_1x1} groups and "
        f"condensation factor C={config.condensation_factor}; block depths {list(config.block_depths)}, growth rates "
        f"{list(config.growth_rates)}.",
        "",
    ]
    if preprocessing is not None:
        cost = count_cost(model, preprocessing.image_size)
        size = preprocessing.image_size
        lines += [f"{cost.macs:,} MACs at {size}x{size}, {cost.params:,} parameters.", ""]
        if preprocessing.classes:
            lines += [f"Classes: {', '.join(preprocessing.classes)}.", ""]
    lines += [
        "```python",
        "from condensenet import load, predict",
        "",
        f"model = load({json.dumps(source)})",
        *(['print(predict(model, ["photo.jpg"]))'] if preprocessing is not None else []),
        "```",
        "",
    ]
    return "\n".join(lines)


def safetensors_error() -> type[Exception]:
    error: type[Exception] = _optional("safetensors").SafetensorError
    return error


def _optional(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"this needs {package}: pip install 'condensenet[hub]' ({error})") from error
