"""CondenseNet (Huang et al., CVPR 2018): networks whose 1x1 convolutions learn which inputs each group keeps.

The public names are imported on first use, so reading a configuration need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; ``_MODULES`` below defines the public names
    from condensenet.config import AugmentConfig, ModelConfig, TrainConfig
    from condensenet.data import PreparedData, write_prepared
    from condensenet.deploy.convert import convert
    from condensenet.deploy.cost import Cost, count_cost
    from condensenet.deploy.export import export_onnx
    from condensenet.deploy.latency.measure import measure_latency
    from condensenet.deploy.lowering.autotune import measure_plan
    from condensenet.deploy.lowering.plan import Plan
    from condensenet.deploy.lowering.portable import portable_plan
    from condensenet.deploy.lowering.writing import lower
    from condensenet.deploy.native.writing import write_native
    from condensenet.deploy.onnx_model import OnnxModel
    from condensenet.deploy.prediction import Prediction, predict
    from condensenet.deploy.quantize import write_int8
    from condensenet.deploy.runtime import operator_library
    from condensenet.interop import load_authors_checkpoint, save_authors_checkpoint
    from condensenet.interop.hub import from_pretrained, push_to_hub, save_pretrained
    from condensenet.interop.load import load
    from condensenet.interop.timm_models import register_timm
    from condensenet.models.condensenet import CondenseNet, group_lasso
    from condensenet.models.presets import presets
    from condensenet.models.registry import create_model, list_models
    from condensenet.models.storage import load_model, save_model
    from condensenet.preprocessing import Preprocessing
    from condensenet.training import EpochResult, fit

__version__ = "0.1.0"

_MODULES = {
    "AugmentConfig": "config",
    "CondenseNet": "models.condensenet",
    "Cost": "deploy.cost",
    "EpochResult": "training",
    "ModelConfig": "config",
    "OnnxModel": "deploy.onnx_model",
    "Plan": "deploy.lowering.plan",
    "Prediction": "deploy.prediction",
    "PreparedData": "data",
    "Preprocessing": "preprocessing",
    "TrainConfig": "config",
    "convert": "deploy.convert",
    "count_cost": "deploy.cost",
    "create_model": "models.registry",
    "export_onnx": "deploy.export",
    "fit": "training",
    "from_pretrained": "interop.hub",
    "group_lasso": "models.condensenet",
    "list_models": "models.registry",
    "load": "interop.load",
    "load_authors_checkpoint": "interop",
    "load_model": "models.storage",
    "lower": "deploy.lowering.writing",
    "measure_latency": "deploy.latency.measure",
    "measure_plan": "deploy.lowering.autotune",
    "operator_library": "deploy.runtime",
    "portable_plan": "deploy.lowering.portable",
    "predict": "deploy.prediction",
    "presets": "models.presets",
    "push_to_hub": "interop.hub",
    "register_timm": "interop.timm_models",
    "save_authors_checkpoint": "interop",
    "save_model": "models.storage",
    "save_pretrained": "interop.hub",
    "write_int8": "deploy.quantize",
    "write_native": "deploy.native.writing",
    "write_prepared": "data",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
