"""Reads what the other stages wrote, for the settings in force; a stage that was not run is ``None``.

The settings come from the parameters and never from the folders: outputs of another day's settings may lie there.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tasks import paths
from tasks.errors import UserError
from tasks.params import Params, Setting

T = TypeVar("T")
Json = Mapping[str, Any]
STAGES = ("train", "convert", "export", "evaluate", "benchmark")
HASHED = {  # the outputs that a run is identified by; the same MD5 as in dvc.lock
    "train": (paths.MODEL, paths.HISTORY, paths.METRICS),
    "convert": (paths.MODEL, paths.COST, paths.KEPT),
    "export": (paths.ONNX, paths.PLAN),
    "evaluate": (paths.METRICS,),
    "benchmark": (paths.LATENCY,),
}


@dataclass(frozen=True, kw_only=True)
class KeptLayer:
    """One learned group convolution after conversion: ``kept[g]`` are the input channels that group g keeps.

    ``mean_abs_weight[g]`` belongs to them one to one: the mean over the group's filters of the absolute weight.
    """

    name: str
    groups: int
    in_channels: int
    out_channels: int
    kept: tuple[tuple[int, ...], ...]
    mean_abs_weight: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SettingResult:
    """Everything that is known of one setting."""

    setting: Setting
    run: Json | None = None
    train: Json | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    cost: Json | None = None
    kept: list[KeptLayer] = field(default_factory=list)
    export: Json | None = None
    evaluation: Json | None = None
    per_class: list[dict[str, str]] = field(default_factory=list)
    latency: Json | None = None
    hashes: dict[str, str] = field(default_factory=dict)  # "<stage>/<file>" -> MD5

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def missing(self) -> list[str]:
        """The stages that have not been run for this setting."""
        found = (self.train, self.cost, self.export, self.evaluation, self.latency)
        return [stage for stage, output in zip(STAGES, found, strict=True) if output is None]

    def latency_rows(self, form: str = paths.LOWERED) -> list[Json]:
        """The measurements of one form; a row that names none is of a time when there was but one file."""
        rows = (self.latency or {}).get("rows", ())
        return [row for row in rows if row.get("form", paths.LOWERED) == form]

    def latency_row(self, *, batch: int = 1, threads: int = 1, form: str = paths.LOWERED) -> Json | None:
        """The measurement with this batch and this number of threads."""
        for row in self.latency_rows(form):
            if (row["batch"], row["threads"]) == (batch, threads):
                return row
        return None


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study's parameters and the results of its settings, in the order of ``params.yaml``."""

    params: Params
    manifest: Json | None
    yardstick: Json | None
    results: list[SettingResult]

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in (self.manifest or {}).get("classes", ())]


def read_study(params: Params) -> Study:
    """Raises ``UserError`` when an output is there but cannot be read."""
    folders = params.paths
    return Study(
        params=params,
        manifest=_read(folders.data / paths.MANIFEST, _json),
        yardstick=_read(folders.yardstick / paths.COST, _json),
        results=[read_setting(params, setting) for setting in params.settings.values()],
    )


def read_setting(params: Params, setting: Setting) -> SettingResult:
    """All outputs of one setting."""
    folder = {stage: params.paths.setting(stage, setting.name) for stage in STAGES}
    return SettingResult(
        setting=setting,
        run=_read(folder["train"] / paths.RUN, _json),
        train=_read(folder["train"] / paths.METRICS, _json),
        history=_read(folder["train"] / paths.HISTORY, _numbers) or [],
        cost=_read(folder["convert"] / paths.COST, _json),
        kept=_read(folder["convert"] / paths.KEPT, _kept) or [],
        export=_read(folder["export"] / paths.EXPORT, _json),
        evaluation=_read(folder["evaluate"] / paths.METRICS, _json),
        per_class=_read(folder["evaluate"] / paths.PER_CLASS, _rows) or [],
        latency=_read(folder["benchmark"] / paths.LATENCY, _json),
        hashes=_hashes(folder),
    )


def _hashes(folder: Mapping[str, Path]) -> dict[str, str]:
    made = {f"{stage}/{name}": folder[stage] / name for stage, names in HASHED.items() for name in names}
    return {key: hashlib.md5(path.read_bytes()).hexdigest() for key, path in made.items() if path.is_file()}


def _read(path: Path, parse: Callable[[str], T]) -> T | None:
    """What ``parse`` makes of the file's text; None when there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return parse(text)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it and run its stage again") from None


def _json(text: str) -> Json:
    return json.loads(text)


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def _numbers(text: str) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items()} for row in _rows(text)]


def _kept(text: str) -> list[KeptLayer]:
    return [_kept_layer(layer) for layer in json.loads(text)["layers"]]


def _kept_layer(layer: Json) -> KeptLayer:
    weights = layer.get("mean_abs_weight")
    return KeptLayer(
        name=layer["name"],
        groups=layer["groups"],
        in_channels=layer["in_channels"],
        out_channels=layer["out_channels"],
        kept=tuple(tuple(group) for group in layer["kept"]),
        mean_abs_weight=None if weights is None else tuple(tuple(group) for group in weights),
    )
