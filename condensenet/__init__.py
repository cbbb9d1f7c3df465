"""CondenseNet (Huang et al., CVPR 2018): networks whose 1x1 convolutions learn which inputs to keep, by groups.

The public names are imported when they are first used: what reads configurations alone does not wait for torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condensenet.config import ModelConfig
    from condensenet.convert import convert
    from condensenet.cost import Cost, count_cost
    from condensenet.export import export_onnx
    from condensenet.interop import load_authors_checkpoint, save_authors_checkpoint
    from condensenet.latency import measure_latency
    from condensenet.lowering import Plan, measure_plan
    from condensenet.lowering.lower import lower, portable_plan
    from condensenet.models.condensenet import CondenseNet, group_lasso
    from condensenet.models.presets import presets
    from condensenet.native import write_native
    from condensenet.quantize import write_int8

__all__ = [
    "CondenseNet",
    "Cost",
    "ModelConfig",
    "Plan",
    "convert",
    "count_cost",
    "export_onnx",
    "group_lasso",
    "load_authors_checkpoint",
    "lower",
    "measure_latency",
    "measure_plan",
    "portable_plan",
    "presets",
    "save_authors_checkpoint",
    "write_int8",
    "write_native",
]

_HOMES = {
    "CondenseNet": "condensenet.models.condensenet",
    "Cost": "condensenet.cost",
    "ModelConfig": "condensenet.config",
    "Plan": "condensenet.lowering",
    "convert": "condensenet.convert",
    "count_cost": "condensenet.cost",
    "export_onnx": "condensenet.export",
    "group_lasso": "condensenet.models.condensenet",
    "load_authors_checkpoint": "condensenet.interop",
    "lower": "condensenet.lowering",
    "measure_latency": "condensenet.latency",
    "measure_plan": "condensenet.lowering",
    "portable_plan": "condensenet.lowering",
    "presets": "condensenet.models.presets",
    "save_authors_checkpoint": "condensenet.interop",
    "write_int8": "condensenet.quantize",
    "write_native": "condensenet.native",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        """Importing the module ``convert`` would put it where the function ``convert`` belongs."""
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
