"""The plans by which the latency table lowers its CondenseNets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from condensenet import CondenseNet
from condensenet.deploy.lowering import Plan, check_plan, measure_plan, portable_plan


@dataclass(frozen=True)
class Plans:
    """``--plan``: portable, measured, or plan files, of which each network uses the one made for it."""

    choice: Sequence[str]
    cache: Path | None = None

    def of(self, model: CondenseNet, size: int) -> Plan:
        if list(self.choice) == ["portable"]:
            return portable_plan(model, size)
        if list(self.choice) == ["measured"]:
            return measure_plan(model, size, threads=1, cache=self.cache)
        refusals = []
        for plan in map(Plan.load, self.choice):
            try:
                check_plan(model, size, plan)
            except ValueError as error:
                refusals.append(str(error))
            else:
                return plan
        raise ValueError(refusals[0])
