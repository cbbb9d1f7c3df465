"""FLOPs and parameters of every network of the paper's tables that is here: published, counted, and the difference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import nn

from condensenet import CondenseNet, Cost, count_cost, presets
from tasks.report.published import Published, PublishedModel
from tasks.tables.network_files import peer

IMAGE_SIZES = {"cifar": 32, "imagenet": 224}
COUNTS = ("paper_flops", "macs", "params")
Row = dict[str, str | int | float | None]


def cost_rows(published: Published) -> list[Row]:
    """A row for each published count: what was published, what is counted here, the difference in %."""
    return [
        row for table, size in IMAGE_SIZES.items() for model in published.table(table) for row in _rows(model, size)
    ]


def _rows(model: PublishedModel, size: int) -> Iterator[Row]:
    if model.key is None:
        return
    cost = counted(model.key, size)
    for name in COUNTS:
        figure, count = model.figures.get(name), getattr(cost, name)
        if figure is None and name == "macs":  # not in the paper's tables
            continue
        yield {
            "table": model.table,
            "network": model.model,
            "count": name,
            "published": figure,
            "counted": count,
            "difference_pct": None if figure is None else round(100 * (count / figure - 1), 4),
        }


@cache
def counted(key: str, size: int) -> Cost:
    """The cost of a preset, fully condensed, or of a network from another paper; nothing is computed."""
    return count_cost(_network(key), size)


def _network(key: str) -> nn.Module:
    with torch.device("meta"):
        return CondenseNet(presets[key]) if key in presets else peer(key)
