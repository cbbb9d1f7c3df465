"""The tables as columns and cells, for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from condensenet.deploy import latency
from tasks.report import formats, machines
from tasks.report.published import Published
from tasks.report.tables.cells import DASH, Cell, Column, Table, make_cells, percentiles
from tasks.tables.cost import Row

TITLES = {"paper_flops": "paper's FLOPs", "macs": "MACs", "params": "parameters"}
UNSTEADY = "Other work ran beside, as the spread of the ratios shows. To measure again: dvc repro -f -s tables"
CAPTIONS = {"cifar": "Cost at 32×32 pixels", "imagenet": "Cost at 224×224 pixels"}


def cost_tables(rows: Sequence[Row]) -> list[Table]:
    """For each data set: what was published, what is counted here, and the difference."""
    return [_cost_table(name, [row for row in rows if row["table"] == name]) for name in CAPTIONS]


def _cost_table(name: str, rows: Sequence[Row]) -> Table:
    counts = [count for count in TITLES if any(row["count"] == count for row in rows)]
    columns = [Column("network", is_text=True)]
    for count in counts:
        title = TITLES[count]
        columns += [Column(title, "published", is_published=True), Column(title, "counted here"), Column("difference")]
    cells = []
    for network, own in groupby(rows, key=lambda row: row["network"]):
        by_count = {str(row["count"]): row for row in own}
        figures = [text for count in counts for text in _figures(by_count.get(count))]
        cells.append(make_cells([str(network), *figures]))
    return Table(CAPTIONS[name], columns, cells)


def _figures(row: Row | None) -> tuple[str, str, str]:
    """Published, counted, difference."""
    if row is None:
        return DASH, DASH, DASH
    counted = formats.exact_count(row["counted"])
    if row["published"] is None:
        return DASH, counted, DASH
    difference = f"{row['difference_pct']:+.1f}%".replace("-0.0", "0.0").replace("+0.0", "0.0")
    return formats.published_count(float(row["published"])), counted, difference


def latency_table(published: Published, facts: Mapping[str, Any]) -> Table:
    """A row for each network and form, with the paper's ratio on an ARM core in a column of its own."""
    columns = (
        Column("network", is_text=True),
        Column("form", is_text=True),
        Column("MACs"),
        Column("latency", "ms"),
        Column("ratio to MobileNetV1"),
        Column("published ratio", "ARM core", is_published=True),
    )
    ratios, shown = published.arm_ratios(), set[str]()
    rows = []
    for row in facts["rows"]:
        ratio = f"{ratios[row['model']]:.3g}" if row["model"] in ratios and row["model"] not in shown else DASH
        shown.add(row["model"])
        rows.append(make_cells([row["model"], row["form"], formats.short_count(row["macs"]), *_times(row), ratio]))
    size = facts["protocol"]["input_size"][-1]
    notes = [
        "plain: PyTorch's export; lowered: standard operators, rewritten for speed; native: our own operator.",
        f"Batch 1 on one thread, in turn with MobileNetV1; median of {facts['protocol']['runs']} runs "
        "(10th to 90th percentile). Weights are random.",
        f"{machines.runtime(facts)}; {machines.hardware(facts)}.",
        *([UNSTEADY] if latency.is_unsteady(facts) else []),
    ]
    return Table(f"Latency at {size}×{size} pixels", columns, rows, notes)


def _times(row: Mapping[str, Any]) -> tuple[Cell, Cell]:
    median = Cell(formats.milliseconds(row["median_ms"]), percentiles(row, "", formats.milliseconds, "_ms"))
    spread = percentiles(row, "ratio_", formats.ratio) if row["ratio_p10"] < row["ratio_p90"] else ""
    return median, Cell(formats.ratio(row["ratio"]), spread)
