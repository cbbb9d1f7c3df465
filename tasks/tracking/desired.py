"""What a run should hold: parameters, tags, the dataset, and what the outputs say. No MLflow here."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks import headline_metrics, paths
from tasks.colours import SERIES
from tasks.outputs import read_csv, read_json_or_empty

if TYPE_CHECKING:  # importing them imports torch, which uploading does not need
    from tasks.params import Params, Setting

ALL_SETTINGS = "all settings"  # the name of a study's run; a setting's has no space
BY_SHORT_NAME = ("model.groups_1x1", "model.condensation_factor")
Point = tuple[str, float, int, int]  # metric name, value, step, time in ms
ARTIFACTS = {  # stage: output -> artifact folder
    "train": {paths.MODEL: "checkpoint", paths.HISTORY: "train"},
    "convert": {paths.KEPT: "convert"},
    "export": {paths.EXPORT: "export", paths.PLAN: "export", paths.FORMS: ""},
    "evaluate": {paths.METRICS: "evaluate", paths.PER_CLASS: "evaluate", paths.CONFUSION: "evaluate"},
    "benchmark": {paths.LATENCY: "benchmark"},
}


def run_params(params: Params, setting: Setting) -> dict[str, str]:
    """Every field of the model, the recipe, the data and the machines, flattened; G and C by their short names."""
    flat = {"G": str(setting.model.groups_1x1), "C": str(setting.model.condensation_factor)}
    flat["initial"] = _as_yaml(setting.initial)
    for section, value in (
        ("model", setting.model),
        ("train", setting.train),
        ("data", params.data),
        ("ray", params.ray),
    ):
        flat.update(_flatten(section, dataclasses.asdict(value)))
    return {name: value for name, value in flat.items() if name not in BY_SHORT_NAME}


def _flatten(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        key = f"{prefix}.{name}"
        if isinstance(value, Mapping):
            yield from _flatten(key, value)
        else:
            yield key, "-".join(map(str, value)) if isinstance(value, list | tuple) else _as_yaml(value)


def _as_yaml(value: object) -> str:
    """As it stands in ``params.yaml``: null, true, 0.1, digits."""
    return value if isinstance(value, str) else json.dumps(value)


def run_tags(params: Params, setting: Setting, commit: str | None) -> dict[str, str]:
    """Tags that the MLflow UI knows: commit, source, user, description, and the report's colour of the setting."""
    model = setting.model
    tags = {
        "mlflow.runColor": SERIES[list(params.settings).index(setting.name) % len(SERIES)],
        "mlflow.source.name": f"tasks.train {setting.name}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": f"G = {model.groups_1x1}, C = {model.condensation_factor}, "
        f"block depths {'-'.join(map(str, model.block_depths))}, "
        f"growth rates {'-'.join(map(str, model.growth_rates))}, {setting.train.epochs} epochs",
    }
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit
        tags["git.uncommitted_changes"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def study_execution(study: str, started_at: str) -> dict[str, str]:
    """As a ``run.json``: what has the runs of all settings of ``study`` below it. ``started_at`` counts only once."""
    identity = hashlib.sha256(f"study {study}".encode()).hexdigest()[:32]
    return {"execution_id": identity, "study": study, "setting": ALL_SETTINGS, "started_at": started_at}


def git_commit() -> str | None:
    """The commit that is checked out, None outside a repository."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def dataset(params: Params) -> dict[str, str] | None:
    """Name, fingerprint, source and counts of the prepared images; None if they are not prepared."""
    try:
        manifest = json.loads((params.paths.data / paths.MANIFEST).read_text())
        counts = {f"{split}_images": str(count) for split, count in manifest["splits"].items()}
        return {
            "name": str(manifest["name"]),
            "fingerprint": str(manifest["fingerprint"]),
            "source": str(params.data.path or params.data.source),
            **counts,
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def dvc_hashes(setting: str, lock: Path = paths.DVC_LOCK) -> dict[str, str]:
    """``<stage>.<output>`` -> md5 of every output of a setting's stages, as ``dvc.lock`` has them now.

    A stage that is not locked yet is left out; so is everything while the file is missing or half-written.
    """
    try:
        stages = YAML(typ="safe").load(lock)["stages"]
        return dict(_output_hashes(stages, setting))
    except (OSError, YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return {}


def _output_hashes(stages: Mapping[str, Any], setting: str) -> Iterator[tuple[str, str]]:
    for name, stage in stages.items():
        stage_name, _, stage_setting = name.partition("@")
        if stage_setting in ("", setting):
            for out in (stage or {}).get("outs") or ():
                if "md5" in out:
                    yield f"{stage_name}.{Path(out['path']).name}", out["md5"]


def outputs(run: Mapping[str, Any], stage: str, workspace: Path = Path()) -> list[tuple[Path, str]]:
    """The outputs of a stage that the run gets, those that are there, each with its artifact folder."""
    folder = workspace / paths.StudyPaths(run["study"]).setting(stage, run["setting"])
    wanted = [(folder / name, target) for name, target in ARTIFACTS.get(stage, {}).items()]
    return [(source, target) for source, target in wanted if source.exists()]


def onnx_model(run: Mapping[str, Any], workspace: Path = Path()) -> Path | None:
    """The exported model, if it is there."""
    file = workspace / paths.StudyPaths(run["study"]).form(run["setting"], paths.LOWERED)
    return file if file.exists() else None


def figures(run: Mapping[str, Any], stage: str, workspace: Path = Path()) -> dict[str, float]:
    """The figures of the trained model in the outputs of a stage."""
    if stage != "train":
        return headline_metrics.stage_metrics(run["study"], run["setting"], stage, workspace)
    folder = workspace / paths.StudyPaths(run["study"]).setting(stage, run["setting"])
    metrics = read_json_or_empty(folder / paths.METRICS)
    return headline_metrics.numbers(
        {"train_seconds": metrics.get("seconds"), "images_per_second": metrics.get("images_per_second")}
    )


def epochs(history: Path, started_at: object) -> dict[int, list[Point]]:
    """Epoch -> its points, timed by the start and the seconds of all epochs so far; none if there is no history."""
    try:
        rows = read_csv(history)
    except OSError:
        return {}
    time_ms, points = milliseconds(started_at), {}
    for row in rows:
        numbers = headline_metrics.numbers(row)
        time_ms += round(1000 * numbers.get("seconds", 0.0))
        step = int(numbers.pop("epoch", 0))
        points[step] = [(name, value, step, time_ms) for name, value in numbers.items()]
    return points


def milliseconds(moment: object) -> int:
    """Since 1970, of an ISO 8601 moment; 0 if there is none."""
    try:
        return round(1000 * datetime.fromisoformat(str(moment)).timestamp())
    except ValueError:
        return 0
