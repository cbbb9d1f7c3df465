"""The tables as a Markdown file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.report.markdown import render_table
from tasks.report.published import Published
from tasks.tables.content import cost_tables, latency_table
from tasks.tables.cost import Row

INTRODUCTION = "FLOPs, parameters and latency of the paper's networks at full size, counted and timed without training."


def render(published: Published, costs: Sequence[Row], facts: Mapping[str, Any]) -> str:
    tables = [*cost_tables(costs), latency_table(published, facts)]
    return "\n".join(["# The paper's tables\n", f"{INTRODUCTION}\n", *map(render_table, tables)]).rstrip() + "\n"
