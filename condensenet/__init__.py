"""CondenseNet (Huang et al., CVPR 2018): networks whose 1x1 convolutions learn which inputs to keep, by groups.

The public names are imported when they are first used: reading a configuration does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; what is public is said below
    from condensenet.config import AugmentConfig, ModelConfig, TrainConfig
    from condensenet.deploy.convert import convert
    from condensenet.deploy.cost import Cost, count_cost
    from condensenet.deploy.export import export_onnx
    from condensenet.deploy.latency.measure import measure_latency
    from condensenet.deploy.lowering.autotune import measure_plan
    from condensenet.deploy.lowering.plan import Plan
    from condensenet.deploy.lowering.portable import portable_plan
    from condensenet.deploy.lowering.writing import lower
    from condensenet.deploy.native.writing import write_native
    from condensenet.deploy.quantize import write_int8
    from condensenet.deploy.runtime import operator_library
    from condensenet.interop import load_authors_checkpoint, save_authors_checkpoint
    from condensenet.models.condensenet import CondenseNet, group_lasso
    from condensenet.models.presets import presets
    from condensenet.models.storage import load_model, save_model

_HOMES = {
    "AugmentConfig": "config",
    "CondenseNet": "models.condensenet",
    "Cost": "deploy.cost",
    "ModelConfig": "config",
    "Plan": "deploy.lowering.plan",
    "TrainConfig": "config",
    "convert": "deploy.convert",
    "count_cost": "deploy.cost",
    "export_onnx": "deploy.export",
    "group_lasso": "models.condensenet",
    "load_authors_checkpoint": "interop",
    "load_model": "models.storage",
    "lower": "deploy.lowering.writing",
    "measure_latency": "deploy.latency.measure",
    "measure_plan": "deploy.lowering.autotune",
    "operator_library": "deploy.runtime",
    "portable_plan": "deploy.lowering.portable",
    "presets": "models.presets",
    "save_authors_checkpoint": "interop",
    "save_model": "models.storage",
    "write_int8": "deploy.quantize",
    "write_native": "deploy.native.writing",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
