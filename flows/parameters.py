"""The types of the flows' parameters. Prefect's server checks them, and the UI lists them, before a run is made.

They are built from ``conf/study`` and the types of ``params.yaml`` where the deployment is made, so a new study needs
another ``prefect deploy``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefect.runtime import flow_run
from pydantic import Field

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig
from tasks import params, paths

STUDIES = tuple(sorted(path.stem for path in paths.STUDIES.glob("*.yaml")))
SECTIONS = {
    "data": params.DataParams,
    "data.augment": AugmentConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "ray": params.RayParams,
    "export": params.ExportParams,
    "evaluate": params.EvaluateParams,
    "benchmark": params.BenchmarkParams,
    "tables": params.TablesParams,
}


def keys_of(*sections: str) -> tuple[str, ...]:
    """The dotted keys of some sections of ``params.yaml``."""
    keys = [f"{name}.{field.name}" for name in sections for field in dataclasses.fields(SECTIONS[name])]
    return (*keys, *(["model.preset"] if "model" in sections else []))


if TYPE_CHECKING:
    Study = str
    PointKey = str
    OverrideKey = str
else:
    Study = Literal[STUDIES]
    PointKey = Literal[keys_of("model", "train")]  # what settings can differ in
    OverrideKey = Literal[
        keys_of(*SECTIONS)
    ]  # a setting's own keys as strings: ["settings.g4-c4.condensation_factor=2"]
Setting = Annotated[str, Field(pattern=params.NAME_PATTERN)]
Overrides = dict[OverrideKey, Any] | list[Annotated[str, Field(pattern="^[^=]+=")]]
Grid = Annotated[dict[PointKey, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]


def run_name() -> str:
    """``cifar10 · condensenet-86``; ``params.yaml · all`` if neither is given."""
    given = flow_run.get_parameters()
    return f"{given.get('study') or paths.PARAMS} · {', '.join(given.get('settings') or ()) or 'all'}"


def sweep_name() -> str:
    """``digits · groups_1x1 × condensation_factor``; with ``points``: ``… · g4-c2``."""
    given = flow_run.get_parameters()
    keys, points = (key.partition(".")[2] for key in given["grid"]), given.get("points")
    names = [given.get("study") or str(paths.PARAMS), " × ".join(keys), *([", ".join(points)] if points else [])]
    return " · ".join(names)
