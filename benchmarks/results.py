"""Fill the tables of docs/RESULTS.md from the files in benchmarks/results, so that no figure is typed by hand.

    python -m benchmarks.results            rewrite the tables
    python -m benchmarks.results --check    only say whether they are those of the files

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``. The files are what the other scripts write with
``--json``; a table without one says that it was not measured here.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results_latency import latency
from benchmarks.results_markdown import (
    NOT_MEASURED,
    ROOT,
    Row,
    Rows,
    as_json,
    cost_of,
    figure,
    maybe,
    network,
    number,
    of,
    provenance,
    spread,
    table,
)
from condensenet import presets
from condensenet.files import write_atomically
from tasks import paths
from tasks.report import published

PAGE = ROOT / "docs" / "RESULTS.md"
FOLDER = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FULL_EPOCHS = 300


def main() -> None:
    options = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    options.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of date")
    check = options.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    new = render(old, read(FOLDER))
    if check and new != old:
        sys.exit(f"error: {PAGE.name} is not what benchmarks/results says: python -m benchmarks.results")
    write_atomically(PAGE, new.encode())


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def render(page: str, results: Rows) -> str:
    """``page`` with every table made anew; raises ``KeyError`` for a table of an unknown name."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]](results)}\n{found[4]}", page)


def throughput(results: Rows) -> str:
    heads = ("Device", "Model", "Recipe", "Phase", "Ours, images/s", "Yardstick, images/s", "Ratio (p10 to p90)")
    lines = [
        (
            row["device"],
            row["model"],
            levers(row),
            row["phase"],
            number(row["ours_images_per_s"]),
            number(row["yardstick_images_per_s"]),
            spread(row, "ratio", "{:.2f}"),
        )
        for row in of(results, "train_throughput")
    ]
    return table(heads, lines) + provenance(results, "train_throughput")


def levers(row: Row) -> str:
    return f"{row['precision']}, compile {row['compile']}{', CUDA graph' * row.get('cuda_graph', False)}"


def gpu_targets(results: Rows) -> str:
    lines = [
        (
            row["device"],
            row["target"],
            levers(row),
            row["wanted"] or "–",
            row["note"] if row["measured"] is None else f"{number(row['measured'])} {row['unit']}",
        )
        for row in of(results, "gpu_targets")
    ]
    return table(("Device", "Target", "Recipe", "Wanted", "Measured"), lines) + provenance(results, "gpu_targets")


def ray_overhead(results: Rows) -> str:
    heads = (
        "Group",
        "Workers",
        "Step, ms (p10 to p90)",
        "Images/s",
        "Step time over ddp's",
        "Scaling efficiency",
        "Start-up, s",
    )
    lines = [
        (
            row["group"],
            str(row["workers"]),
            spread(row, "step_ms", "{:.1f}"),
            number(row["images_per_s"]),
            maybe(row["overhead_pct"], "{:+.1f}%"),
            maybe(row["scaling_efficiency_pct"], "{:.0f}%"),
            maybe(row["start_up_s"], "{:.1f}"),
        )
        for row in of(results, "ray_overhead")
    ]
    return table(heads, lines) + provenance(results, "ray_overhead")


def presets_speed(results: Rows) -> str:
    heads = ("Phase", "Model", "MACs", "Step, ms (p10 to p90)", "On the line, ms", "Images/s", "r² of the line")
    lines = [
        (
            row["phase"],
            row["model"],
            f"{row['macs'] / 1e6:.1f}M",
            spread(row, "step_ms", "{:.0f}"),
            f"{row['line_step_ms']:.0f}",
            number(row["images_per_s"]),
            f"{row['r2']:.4f}",
        )
        for row in of(results, "presets_speed")
    ]
    return table(heads, lines) + provenance(results, "presets_speed")


def fidelity(results: Rows) -> str:
    heads = ("Network", "Epochs × images", "Training", "Seed", "Test error, %", "Standard error", "Seconds")
    lines = [
        (
            network(row["model"]),
            f"{row['epochs']} × {row['train_images']:,}",
            "ours less the yardstick" if row["side"] == "difference" else row["side"],
            str(row["seed"]),
            f"{row['error_pct']:{'+' * (row['side'] == 'difference')}.2f}",
            maybe(row.get("standard_error_pct"), "{:.2f}"),
            maybe(row.get("seconds"), "{:.0f}"),
        )
        for row in of(results, "fidelity")
    ]
    return table(heads, lines) + provenance(results, "fidelity")


def cifar(results: Rows) -> str:
    """Every network of the family in the CIFAR table: what is published, and what was counted and trained here."""
    heads = (
        "Network",
        "Published FLOPs",
        "Counted here",
        "Published params",
        "Counted here",
        "Published CIFAR-10 error, %",
        "Measured here (CIFAR-10 as JPEG), %",
    )
    lines = []
    for entry in published.read_published(ROOT / paths.PUBLISHED).table("cifar"):
        if entry.preset is None:
            continue
        config = presets[entry.preset]
        cost = cost_of(entry.preset)
        trained = [
            row["error_pct"]
            for row in of(results, "fidelity")
            if row["side"] == "ours"
            and row["seed"] == "mean"
            and row["epochs"] >= FULL_EPOCHS
            and row["model"] == as_json(config)
        ]
        lines.append(
            (
                entry.model,
                figure(entry.first("paper_flops"), "{:g}M", 1e6),
                f"{cost.paper_flops / 1e6:,.1f}M",
                figure(entry.first("params"), "{:g}M", 1e6),
                f"{cost.params / 1e6:.2f}M",
                figure(entry.first("cifar10_error_pct"), "{:.2f}"),
                f"{trained[0]:.2f}" if trained else NOT_MEASURED,
            )
        )
    return table(heads, lines)


TABLES: dict[str, Callable[[Rows], str]] = {
    "throughput": throughput,
    "gpu-targets": gpu_targets,
    "ray-overhead": ray_overhead,
    "presets-speed": presets_speed,
    "latency": latency,
    "fidelity": fidelity,
    "cifar": cifar,
}


if __name__ == "__main__":
    main()
