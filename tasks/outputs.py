"""What stages write and later stages read: written atomically; a missing or broken file is a one-line error."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensenet.files import write_atomically
from condensenet.text import escaped
from tasks import paths
from tasks.errors import UserError, one_line
from tasks.params import Params, Setting

if TYPE_CHECKING:
    from condensenet.data import PreparedData
    from condensenet.models.condensenet import CondenseNet


RUN_KEYS = ("execution_id", "study", "setting")  # of run.json


def write_text(path: Path, text: str) -> None:
    """Write atomically, and make the folder if need be."""
    write_atomically(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, as_json(content))


def as_json(content: Any) -> str:
    """The text that ``write_json`` writes."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    try:
        return _escaped(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """The mapping in a file; empty if the file is missing or broken."""
    try:
        content = _escaped(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_csv(path: Path, rows: Iterable[Mapping[str, object]], names: Sequence[str] | None = None) -> None:
    """A header of ``names`` (default: the first row's, so there must be one), then all rows; lines end with \\n."""
    write_text(path, as_csv(rows, names))


def as_csv(rows: Iterable[Mapping[str, object]], names: Sequence[str] | None = None) -> str:
    """The text that ``write_csv`` writes."""
    rows = list(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, names or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, str]] = _escaped(list(csv.DictReader(file)))
        return rows


def _escaped(content: Any) -> Any:
    """The same with every text in one printable line: class names in it come from outside."""
    if isinstance(content, str):
        return escaped(content)
    if isinstance(content, dict):
        return {_escaped(key): _escaped(value) for key, value in content.items()}
    return [_escaped(value) for value in content] if isinstance(content, list) else content


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a ``history.csv``, an epoch each; none if it is not there yet."""
    if not path.exists():
        return []
    return [{name: float(value) for name, value in row.items()} for row in read_csv(path)]


def read_run(params: Params, setting: Setting) -> dict[str, Any]:
    """The identity of the execution that trained ``setting``: the content of ``run.json``."""
    path = existing(params.paths.setting("train", setting.name) / paths.RUN, f"train@{setting.name}")
    run = read_json(path)
    missing = [key for key in RUN_KEYS if not isinstance(run, dict) or key not in run]
    if missing:
        raise UserError(
            f"{path} is not what train writes ({missing[0]} is missing): run dvc repro -f train@{setting.name}"
        )
    return dict(run)


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
        if model.preprocessing not in (None, data.manifest.preprocessing):
            raise ValueError(
                f"the model was trained on images prepared otherwise than {params.paths.data}: train again"
            )
        if len(data.split("test")) == 0:
            raise ValueError(f"{params.paths.data} has no test images: the models cannot be compared")
    return data


def existing(path: Path, stage: str) -> Path:
    """``path``, if ``stage`` has made it."""
    if not path.exists():
        raise UserError(f"{path} is missing: run dvc repro {stage}")
    return path
