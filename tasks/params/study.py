"""A study: the sections that its settings share, and each setting's model and training."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from condensenet.config import ModelConfig, TrainConfig
from condensenet.config.checks import require
from tasks import paths
from tasks.errors import UserError
from tasks.params.names import Name, check_name
from tasks.params.sections import (
    STRICT,
    BenchmarkParams,
    DataParams,
    EvaluateParams,
    ExportParams,
    RayParams,
    TablesParams,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Setting:
    """One model under comparison and how it is trained."""

    name: str
    model: ModelConfig
    train: TrainConfig
    # A model file to start from, relative to the checkout; null: random weights. DVC does not follow its content: when
    # that has changed, run dvc repro -f train@SETTING.
    initial: str | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sections:
    """What a study's file and its checked parameters share."""

    study: Name
    data: DataParams
    ray: RayParams
    export: ExportParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams
    tables: TablesParams = TablesParams()

    def __post_init__(self) -> None:
        check_name(self.study, "study")
        require(
            self.study.casefold() != paths.TABLES.name,
            f"study={self.study!r} is not allowed: its outputs are not a study's",
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StudyFile(Sections):
    """``params.yaml`` as written. A setting overrides keys of ``model`` and, under ``train``, keys of ``train``."""

    model: dict[str, Any]
    train: TrainConfig
    settings: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Params(Sections):
    settings: dict[str, Setting]

    def setting(self, name: str) -> Setting:
        if name not in self.settings:
            raise UserError(f"setting {name!r} is not in params.yaml: {', '.join(self.settings)}")
        return self.settings[name]

    @property
    def paths(self) -> paths.StudyPaths:
        return paths.StudyPaths(self.study)
