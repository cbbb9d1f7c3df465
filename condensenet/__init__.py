"""CondenseNet (Huang et al., CVPR 2018): networks whose 1x1 convolutions learn which inputs to keep, by groups."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from condensenet.config import ModelConfig
from condensenet.convert import convert
from condensenet.cost import Cost, count_cost
from condensenet.models.condensenet import CondenseNet, group_lasso
from condensenet.models.presets import presets

__all__ = [
    "CondenseNet",
    "Cost",
    "ModelConfig",
    "convert",
    "count_cost",
    "export_onnx",
    "group_lasso",
    "load_authors_checkpoint",
    "measure_latency",
    "presets",
]

_ON_DEMAND = {
    "export_onnx": "condensenet.export",
    "load_authors_checkpoint": "condensenet.interop",
    "measure_latency": "condensenet.latency",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_DEMAND[name]), name)
