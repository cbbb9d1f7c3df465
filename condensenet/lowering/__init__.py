"""The exported graph made fast: exact rewrites of the grouped form, chosen by measurement."""

from condensenet.lowering.lower import check_plan, lower, portable_plan
from condensenet.lowering.plan import Plan
from condensenet.lowering.planner import measure_plan

__all__ = ["Plan", "check_plan", "lower", "measure_plan", "portable_plan"]
