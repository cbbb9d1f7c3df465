"""Reads what the other stages wrote for the settings in force; the output of a stage that was not run is ``None``.

The settings come from the parameters, never from the folders, which may hold outputs of earlier settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

from tasks import headline_metrics, outputs, paths
from tasks.errors import UserError
from tasks.params import Params, Setting

T = TypeVar("T")
Json = Mapping[str, Any]
STAGES = ("train", "convert", "export", "evaluate", "benchmark")


@dataclass(frozen=True, kw_only=True)
class KeptLayer:
    """A learned group convolution after conversion: ``kept[g]`` lists the input channels that group g keeps.

    ``mean_abs_weight[g]`` holds one value for each of them: the absolute weight, averaged over the group's filters.
    """

    name: str
    groups: int
    in_channels: int
    out_channels: int
    kept: tuple[tuple[int, ...], ...]
    mean_abs_weight: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SettingResult:
    """The outputs of one setting's stages."""

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

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def missing(self) -> list[str]:
        """The stages that have not been run for this setting."""
        files = (self.train, self.cost, self.export, self.evaluation, self.latency)
        return [stage for stage, file in zip(STAGES, files, strict=True) if file is None]

    @property
    def metrics(self) -> dict[str, float]:
        """The headline figures, as MLflow has them; what was not measured is left out."""
        return {
            **headline_metrics.cost_metrics(self.cost or {}),
            **headline_metrics.export_metrics(self.export or {}),
            **headline_metrics.evaluation_metrics(self.evaluation or {}),
            **headline_metrics.latency_metrics(self.latency or {}),
        }

    @property
    def error_interval_pct(self) -> tuple[float, float] | None:
        """The 95% interval of the test error, None before evaluation."""
        error = self.metrics.get("test_error_pct")
        if error is None or self.evaluation is None:
            return None
        return wilson_interval_pct(error, self.evaluation["images"])

    @property
    def validation_split(self) -> str:
        """The images each epoch was validated on: "validation", or "test" where none are held out."""
        return str((self.train or {}).get("validation_split", "validation"))

    @property
    def dropping_epochs(self) -> list[tuple[int, int]]:
        """(epoch, condensing stage reached in it) of every epoch in which connections were dropped."""
        steps = [(int(row["epoch"]), int(row["condensing_stage"])) for row in self.history]
        before = [0, *(stage for _, stage in steps)]
        return [step for step, last in zip(steps, before, strict=False) if step[1] > last]

    def latency_rows(self, form: str = paths.LOWERED) -> list[Json]:
        """The measurements of one form; files written before there were forms name none."""
        rows = (self.latency or {}).get("rows", ())
        return [row for row in rows if row.get("form", paths.LOWERED) == form]

    def latency_row(self, form: str = paths.LOWERED) -> Json | None:
        """The measurement at batch 1 on one thread."""
        return next((row for row in self.latency_rows(form) if (row["batch"], row["threads"]) == (1, 1)), None)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study's parameters and the results of its settings, in the order of ``params.yaml``."""

    params: Params
    manifest: Json | None
    yardstick: Json | None
    results: list[SettingResult]


def read_study(params: Params) -> Study:
    """Raises ``UserError`` if an output exists but cannot be read."""
    return Study(
        params=params,
        manifest=_read(params.paths.data / paths.MANIFEST, outputs.read_json),
        yardstick=_read(params.paths.yardstick / paths.COST, outputs.read_json),
        results=[read_setting(params, setting) for setting in params.settings.values()],
    )


def read_setting(params: Params, setting: Setting) -> SettingResult:
    """All outputs of one setting."""
    train, convert, export, evaluate, benchmark = (params.paths.setting(stage, setting.name) for stage in STAGES)
    return SettingResult(
        setting=setting,
        run=_read(train / paths.RUN, outputs.read_json),
        train=_read(train / paths.METRICS, outputs.read_json),
        history=_read(train / paths.HISTORY, outputs.read_history) or [],
        cost=_read(convert / paths.COST, outputs.read_json),
        kept=_read(convert / paths.KEPT, _read_kept) or [],
        export=_read(export / paths.EXPORT, outputs.read_json),
        evaluation=_read(evaluate / paths.METRICS, outputs.read_json),
        per_class=_read(evaluate / paths.PER_CLASS, outputs.read_csv) or [],
        latency=_read(benchmark / paths.LATENCY, outputs.read_json),
    )


def _read(path: Path, read: Callable[[Path], T]) -> T | None:
    """What ``read`` returns; None if there is no file."""
    if not path.exists():
        return None
    try:
        return read(path)
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it and run its stage again") from None


def _read_kept(path: Path) -> list[KeptLayer]:
    return [_kept_layer(layer) for layer in outputs.read_json(path)["layers"]]


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


def wilson_interval_pct(error_pct: float, images: int) -> tuple[float, float]:
    """The 95% interval of an error measured on ``images`` images, in percent.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z = 1.96
    p = error_pct / 100
    centre = p + z * z / (2 * images)
    spread = z * sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    return max(0.0, 100 * (centre - spread) / scale), min(100.0, 100 * (centre + spread) / scale)
