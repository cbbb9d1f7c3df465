"""Lowering: exact rewrites of the grouped form into a fast ONNX graph, chosen by autotuning."""

from condensenet.deploy.lowering.autotune import measure_plan
from condensenet.deploy.lowering.plan import Plan
from condensenet.deploy.lowering.portable import portable_plan
from condensenet.deploy.lowering.writing import check_plan, lower

__all__ = ["Plan", "check_plan", "lower", "measure_plan", "portable_plan"]
