"""The exported graph made fast: exact rewrites of the grouped form, chosen by measurement."""

from condensenet.lowering.lower import lower, portable_plan
from condensenet.lowering.plan import Plan
from condensenet.lowering.planner import measure_plan

__all__ = ["Plan", "lower", "measure_plan", "portable_plan"]
