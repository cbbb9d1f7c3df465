"""Every table of docs/RESULTS.md: its columns, and the line below it that names machine and versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.pages.markdown import (
    ROOT,
    Column,
    Results,
    Row,
    files_of,
    formatted,
    maybe,
    number,
    provenance,
    rows_of,
    spread,
    table,
    text,
)
from benchmarks.pages.runtime_tables import runtimes
from condensenet import ModelConfig, presets
from tasks import paths
from tasks.report.published import PublishedModel, read_published

IMAGENET_IMAGES = 1_281_167 + 50_000
CPUS = "cpus"  # of the latency table, other than the one that it was made on


def throughput(results: Results) -> str:
    return training_table(
        results,
        "train_throughput",
        ("Device", text("device")),
        ("Vectors", instruction_set),
        ("Model", text("model")),
        ("Recipe", recipe),
        ("Phase", text("phase")),
        ("Ours, images/s", lambda row: number(row["ours_images_per_s"])),
        ("Authors' algorithm, images/s", lambda row: number(row["authors_images_per_s"])),
        ("Ratio (p10 to p90)", spread("ratio", "{:.2f}")),
        ("Ours over ours without kernels", formatted("kernels_ratio", "{:.2f}")),
    )


def gpu_targets(results: Results) -> str:
    return training_table(
        results,
        "gpu_targets",
        ("Device", text("device")),
        ("Target", text("target")),
        ("Recipe", recipe),
        ("Wanted", lambda row: row["wanted"] or "–"),
        (
            "Measured",
            lambda row: row["note"] if row["measured"] is None else f"{number(row['measured'])} {row['unit']}",
        ),
    )


def data_throughput(results: Results) -> str:
    return training_table(
        results,
        "data_throughput",
        ("Side", text("side")),
        ("KB an image", formatted("kb", "{:.0f}")),
        ("All of ImageNet, GB", lambda row: maybe(row.get("kb") and row["kb"] * IMAGENET_IMAGES / 1e6, "{:.0f}")),
        ("Images/s a core", formatted("images_s_core", "{:.0f}")),
        ("Times torchvision's PIL pipeline (p10 to p90)", spread("ratio", "{:.2f}")),
        ("Wanted", formatted("wanted", "{:g}")),
    )


def gpu_loading(results: Results) -> str:
    return training_table(
        results,
        "gpu_loading",
        ("Device", text("device")),
        ("CPU", lambda row: f"{row['cpu']}, {row['cores']} cores"),
        ("Side", text("side")),
        ("Recipe", recipe),
        ("Images/s (p10 to p90)", speed_or_note),
        ("Of the slower of step and loader", formatted("of_the_slower", "{:.2f}")),
        ("Waiting for batches", formatted("waiting", "{:.0%}")),
    )


def speed_or_note(row: Row) -> str:
    return row["note"] if row["images_per_s"] is None else spread("images_per_s", "{:,.0f}")(row)


def ray_overhead(results: Results) -> str:
    return training_table(
        results,
        "ray_overhead",
        ("Group", text("group")),
        ("Workers", text("workers")),
        ("Step, ms (p10 to p90)", spread("step_ms", "{:.1f}")),
        ("Images/s", lambda row: number(row["images_per_s"])),
        ("Step time over ddp's", formatted("overhead_pct", "{:+.1f}%")),
        ("Scaling efficiency", formatted("scaling_efficiency_pct", "{:.0f}%")),
        ("Start-up, s", formatted("start_up_s", "{:.1f}")),
    )


def presets_speed(results: Results) -> str:
    return training_table(
        results,
        "presets_speed",
        ("Phase", text("phase")),
        ("Model", text("model")),
        ("MACs", lambda row: f"{row['macs'] / 1e6:.1f}M"),
        ("Step, ms (p10 to p90)", spread("step_ms", "{:.0f}")),
        ("On the line, ms", formatted("line_step_ms", "{:.0f}")),
        ("Images/s", lambda row: number(row["images_per_s"])),
        ("r² of the line", formatted("r2", "{:.4f}")),
    )


def fidelity(results: Results) -> str:
    return training_table(
        results,
        "fidelity",
        ("Network", lambda row: network(row["model"])),
        ("Epochs × images", lambda row: f"{row['epochs']} × {row['train_images']:,}"),
        ("Training", lambda row: "ours minus authors" if row["side"] == "difference" else row["side"]),
        ("Seed", text("seed")),
        ("Test error, %", lambda row: f"{row['error_pct']:{'+' * (row['side'] == 'difference')}.2f}"),
        ("Standard error", formatted("standard_error_pct", "{:.2f}")),
        ("Seconds", formatted("seconds", "{:.0f}")),
    )


def soak(results: Results) -> str:
    """What was tried and lost in the last soak, by the trouble that struck, and in all."""
    rows = rows_of(results, "soak")
    counted = ("sweeps", "struck", "runs_ended", "lost")
    total = [{"trouble": "all", **{name: sum(row[name] for row in rows) for name in counted}}] if rows else []
    columns = (
        ("Trouble", text("trouble")),
        ("Sweeps", text("sweeps")),
        ("Times it struck", text("struck")),
        ("Runs that ended without success", text("runs_ended")),
        ("Lost", text("lost")),
    )
    return table(columns, [*rows, *total]) + provenance(results, "soak", soak_facts)


def soak_facts(rows: Sequence[Row]) -> list[str]:
    return [rows[0]["device"], f"{rows[0]['minutes']:g} minutes", f"seed {rows[0]['seed']}"]


def training_table(results: Results, script: str, *columns: Column) -> str:
    return table(columns, rows_of(results, script)) + provenance(results, script, training_facts)


def training_facts(rows: Sequence[Row]) -> list[str]:
    row = rows[0]
    facts = [row["device"], f"PyTorch {row['torch']}"]
    facts += [f"compiled kernels {'in use' if row['kernels'] else 'not in use'}"] if "kernels" in row else []
    facts += [f"batch {row['batch_size']}"] if "batch_size" in row else []
    facts += [f"{row['rounds']} rounds"] if "rounds" in row else []
    facts += [f"images {row['data']}, {row['test_images']:,} of them for testing"] if "data" in row else []
    return facts


def instruction_set(row: Row) -> str:
    return row.get("instruction_set") or "–"


def recipe(row: Row) -> str:
    return f"{row['precision']}, compile {row['compile']}{', CUDA graph' * row.get('cuda_graph', False)}"


def network(model: Row) -> str:
    """The preset's name, or block depths and growth rates of a network that is none."""
    shape = " / ".join("-".join(map(str, model[name])) for name in ("block_depths", "growth_rates"))
    return next((name for name, config in presets.items() if model == as_json(config)), shape)


def latency(results: Results) -> str:
    """Ratios measured here and, in a column of its own, the paper's ratios of seconds on an ARM core."""
    published_ratios = read_published(ROOT / paths.PUBLISHED).arm_ratios()  # one image on one core
    columns = (
        ("Network", text("model")),
        ("Form", text("form")),
        ("Threads", text("threads")),
        ("Batch", text("batch")),
        ("Median, ms (p10 to p90)", spread("median_ms", "{:.2f}", "p10_ms", "p90_ms")),
        ("Ratio to MobileNetV1 (p10 to p90)", spread("ratio_to_mobilenet_v1", "{:.2f}", "ratio_p10", "ratio_p90")),
        ("Million MACs", lambda row: f"{row['macs'] / 1e6:,.1f}"),
        ("GMAC/s", lambda row: number(row["macs_per_s"] / 1e9)),
        ("Share of the peak", lambda row: f"{100 * row['share_of_peak']:.0f}%"),
        (
            "Published ratio, another machine",
            lambda row: maybe(
                published_ratios.get(row["model"]) if row["threads"] == row["batch"] == 1 else None, "{:.3g}"
            ),
        ),
    )
    script = "latency_table"
    return table(columns, rows_of(results, script)) + provenance(results, script, latency_facts)


def latency_facts(rows: Sequence[Row]) -> list[str]:
    row = rows[0]
    peaks = {row["threads"]: f"{row['peak_macs_per_s'] / 1e9:.0f} GMAC/s ({row['peak_by']})" for row in rows}
    return [
        row["device"],
        f"ONNX Runtime {row['onnxruntime']}",
        f"plan: {row['plan']}",
        f"{row['rounds']} rounds",
        f"batch {row['batch']}, 224x224",
        *(f"peak on {threads} thread{'s' * (threads > 1)}: {peak}" for threads, peak in peaks.items()),
    ]


def by_cpu(results: Results) -> str:
    """One image on one thread, for each CPU that was measured: a line a file."""

    def ratio(model: str, form: str) -> Column:
        def cell(rows: Sequence[Row]) -> str:
            found = (row for row in rows if (row["model"], row["form"]) == (model, form))
            return next(map(spread("ratio_to_mobilenet_v1", "{:.2f}", "ratio_p10", "ratio_p90"), found), "–")

        return f"{model.removeprefix('condensenet-74-')} {form}", cell

    files = [rows for script in ("latency_table", CPUS) for _, rows in files_of(results, script)]
    singles = [[row for row in rows if row["threads"] == row["batch"] == 1] for rows in files]
    columns: Sequence[Column] = (
        ("CPU", lambda rows: rows[0]["device"]),
        ("MobileNetV1, ms", lambda rows: f"{rows[0]['mobilenet_v1_median_ms']:.2f}"),
        *(ratio(f"condensenet-74-{size}", form) for size in ("g4", "g8") for form in ("plain", "lowered", "native")),
        ("Peak, GMAC/s", lambda rows: number(rows[0]["peak_macs_per_s"] / 1e9)),
    )
    return table(columns, [rows for rows in singles if rows]) + provenance(results, CPUS, latency_facts)


def published_figure(entry: PublishedModel, name: str, form: str, unit: float = 1.0) -> str:
    figure = entry.figures.get(name)
    return "–" if figure is None else form.format(figure / unit)


def as_json(config: ModelConfig) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config)))


TABLES: dict[str, Callable[[Results], str]] = {
    "throughput": throughput,
    "gpu-targets": gpu_targets,
    "gpu-loading": gpu_loading,
    "data-throughput": data_throughput,
    "ray-overhead": ray_overhead,
    "presets-speed": presets_speed,
    "latency": latency,
    "latency-cpus": by_cpu,
    "runtimes": runtimes,
    "fidelity": fidelity,
    "soak": soak,
}
