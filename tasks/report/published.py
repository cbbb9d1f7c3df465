"""Figures that others have published, each read at the source that its row names."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condensenet.config import ModelConfig
from condensenet.models.presets import presets
from condensenet.text import message_of, shown
from tasks import paths
from tasks.errors import UserError
from tasks.networks import MOBILENET, NETWORKS
from tasks.params import Params

FIGURES = (
    "paper_flops",
    "macs",
    "params",
    "cifar10_error_pct",
    "cifar100_error_pct",
    "imagenet_error_pct",
    "imagenet_top5_error_pct",
    "arm_latency_s",
)
TABLES = ("cifar", "imagenet", "arm")
MAX = sys.float_info.max
DATASETS = ("cifar10", "cifar100", "imagenet")


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """One row of a published table."""

    table: str
    model: str
    source: str
    preset: str | None
    network: str | None  # from another paper, as in tasks/networks.py
    figures: Mapping[str, float]  # by its name in FIGURES: counts, errors in percent, seconds

    @property
    def key(self) -> str | None:
        """What the row is about: one of our presets, a network from another paper, or nothing that is here."""
        return self.preset or self.network


@dataclass(frozen=True, kw_only=True)
class Published:
    """The content of ``conf/published.yaml``."""

    sources: Mapping[str, str]
    models: tuple[PublishedModel, ...]

    def table(self, name: str) -> list[PublishedModel]:
        return [model for model in self.models if model.table == name]

    def arm_ratios(self) -> dict[str, float]:
        """Seconds in the paper's ARM table divided by MobileNet's, by preset or network."""
        seconds = {model.key: model.figures["arm_latency_s"] for model in self.table("arm") if model.key is not None}
        return {key: own / seconds[MOBILENET] for key, own in seconds.items()}

    def match(self, config: ModelConfig, dataset: str | None) -> PublishedModel | None:
        """The row of the network ``config``, if its error on ``dataset`` was published."""
        table = {"cifar10": "cifar", "cifar100": "cifar", "imagenet": "imagenet"}.get(dataset or "")
        names = preset_names(config)
        for model in self.models:
            if model.table == table and model.preset in names and f"{dataset}_error_pct" in model.figures:
                return model
        return None


NOTHING = Published(sources={}, models=())


def dataset_of(params: Params) -> str | None:
    """The data set with published figures that a study is about, from its source or the start of its name."""
    if params.data.source in DATASETS:
        return params.data.source
    first = params.study.split("-")[0].split("_")[0]
    return first if first in DATASETS and params.data.source in ("parquet", "imagefolder") else None


def preset_names(config: ModelConfig) -> set[str]:
    """The presets that are this network, whatever the number of classes and the dropout."""
    return {
        name
        for name, preset in presets.items()
        if dataclasses.replace(preset, num_classes=config.num_classes, dropout=config.dropout) == config
    }


def read_published(path: Path = paths.PUBLISHED) -> Published:
    """Raises ``UserError`` with one line when the file is missing or a row is not as described there."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        raw = YAML(typ="safe", pure=True).load(path)
        return parse(raw)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the folder that holds it") from None
    except (YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {message_of(error)}") from None


def parse(raw: Mapping[str, Any]) -> Published:
    """Raises ``ValueError`` for a figure that is no positive number or above 100%, an unknown key or source."""
    sources = dict(raw["sources"])
    for number, row in enumerate(raw["models"], start=1):
        if not isinstance(row, Mapping) or not isinstance(row.get("model"), str):
            raise ValueError(f"row {number} of models has no name under the key model")
    return Published(sources=sources, models=tuple(_model(row, sources) for row in raw["models"]))


def _model(row: Mapping[str, Any], sources: Mapping[str, str]) -> PublishedModel:
    rest = {key: value for key, value in row.items() if key not in ("table", "model", "source", "preset", "network")}
    name, table, source = row["model"], row.get("table", ""), row.get("source", "")
    preset, network = row.get("preset"), row.get("network")
    links = [("preset", preset, tuple(presets)), ("network", network, NETWORKS)]
    for key, value, allowed in (
        ("table", table, TABLES),
        ("source", source, tuple(sources)),
        *(link for link in links if link[1] is not None),
    ):
        if value not in allowed:
            raise ValueError(f"{name}: {key}={shown(value)} is not allowed: {', '.join(allowed)}")
    for key in rest:
        if key not in FIGURES:
            raise ValueError(f"{name}: unknown key {key}: allowed are {', '.join(FIGURES)}")
    figures = {key: _figure(name, key, value) for key, value in rest.items()}
    return PublishedModel(table=table, model=name, source=source, preset=preset, network=network, figures=figures)


def _figure(name: str, key: str, value: object) -> float:
    limit, allowed = (100, "more than 0, at most 100") if key.endswith("_pct") else (MAX, "a positive number")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= limit:
        raise ValueError(f"{name}: {key}={shown(value)} is not allowed: {allowed}")
    return float(value)
