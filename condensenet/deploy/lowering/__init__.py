"""The exported graph made fast: exact rewrites of the grouped form, chosen by measurement."""

from condensenet.deploy.lowering.plan import Plan
from condensenet.deploy.lowering.planner import measure_plan
from condensenet.deploy.lowering.writing import check_plan, lower, portable_plan

__all__ = ["Plan", "check_plan", "lower", "measure_plan", "portable_plan"]
