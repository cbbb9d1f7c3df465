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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from condensenet import CondenseNet, Cost, count_cost, presets
from condensenet.config import ModelConfig
from condensenet.files import write_atomically
from tasks import paths
from tasks.report import published

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "RESULTS.md"
FOLDER = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
NOT_MEASURED = "not measured here"
FULL_EPOCHS = 300
Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]  # by file name without .json


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


def levers(row: Mapping[str, Any]) -> str:
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
    "fidelity": fidelity,
    "cifar": cifar,
}


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


def figure(found: published.Figure | None, form: str, unit: float = 1.0) -> str:
    """A published figure; one that was not read at its source keeps its mark."""
    if found is None:
        return "–"
    return form.format(found.value / unit) + ("" if found.mark == "V" else f" [{found.mark}]")


if __name__ == "__main__":
    main()
