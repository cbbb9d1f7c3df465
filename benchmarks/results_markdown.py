"""What the tables of docs/RESULTS.md are made with: rows by script, cells, and the line under a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from condensenet import CondenseNet, Cost, count_cost, presets
from condensenet.config import ModelConfig
from tasks.report import published

ROOT = Path(__file__).resolve().parents[1]
NOT_MEASURED = "not measured here"
Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]  # by file name without .json


def of(results: Rows, script: str) -> Iterator[Row]:
    """The rows of every file of ``script``: its name, with something behind it or not."""
    for name, rows in results.items():
        if name == script or name.startswith(f"{script}-"):
            yield from rows


def provenance(results: Rows, script: str) -> str:
    """A line a file: where it was measured, and with what."""
    lines = []
    for name in results:
        if rows := list(of({name: results[name]}, script)):
            row = rows[0]
            facts = [row["device"], f"PyTorch {row['torch']}"]
            facts += [f"compiled kernels {'in use' if row['kernels'] else 'not in use'}"] if "kernels" in row else []
            facts += [f"batch {row['batch_size']}"] if "batch_size" in row else []
            facts += [f"{row['turns']} turns"] if "turns" in row else []
            facts += [f"images {row['data']}, {row['test_images']:,} of them for testing"] if "data" in row else []
            lines.append(f"\n{name}.json: {'; '.join(facts)}.\n")
    return "".join(lines)


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return f"_{NOT_MEASURED}_\n"
    cells = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def network(model: Mapping[str, Any]) -> str:
    names = [name for name, config in presets.items() if model == as_json(config)]
    shape = " / ".join("-".join(map(str, model[name])) for name in ("block_depths", "growth_rates"))
    return names[0] if names else shape


@cache
def cost_of(preset: str) -> Cost:
    return count_cost(CondenseNet(presets[preset]), 32)


def as_json(config: ModelConfig) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config)))


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(row: Row, name: str, form: str) -> str:
    """A median and, where it was taken, its 10th and 90th percentile."""
    if row.get(f"{name}_p10") is None:
        return form.format(row[name])
    return f"{form.format(row[name])} ({form.format(row[f'{name}_p10'])} to {form.format(row[f'{name}_p90'])})"


def maybe(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def figure(found: published.PublishedFigure | None, form: str, unit: float = 1.0) -> str:
    """A published figure; one that was not read at its source keeps its mark."""
    if found is None:
        return "–"
    return form.format(found.value / unit) + ("" if found.mark == "V" else f" [{found.mark}]")
