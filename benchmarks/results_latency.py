"""The latency table of docs/RESULTS.md."""

from __future__ import annotations

from benchmarks.results_markdown import ROOT, Rows, maybe, number, of, spread, table
from tasks import paths
from tasks.report import published


def latency(results: Rows) -> str:
    """Ratios measured here, and in a column of its own the paper's, of seconds on an ARM core."""
    heads = (
        "Network",
        "Form",
        "Threads",
        "Median, ms (p10 to p90)",
        "Ratio to MobileNetV1 (p10 to p90)",
        "Million MACs",
        "GMAC/s",
        "Share of the peak",
        "Published ratio, another machine",
    )
    published_ratios = arm_ratios()
    lines = [
        (
            row["model"],
            row["form"] if row["runtime"] == "ONNX Runtime" else f"{row['form']}, {row['runtime']}",
            str(row["threads"]),
            spread({**row, "ms": row["median_ms"], "ms_p10": row["p10_ms"], "ms_p90": row["p90_ms"]}, "ms", "{:.2f}"),
            spread({**row, "ratio": row["ratio_to_mobilenet_v1"]}, "ratio", "{:.2f}"),
            f"{row['macs'] / 1e6:,.1f}",
            number(row["macs_per_s"] / 1e9),
            f"{100 * row['share_of_peak']:.0f}%",
            maybe(published_ratios.get(row["model"]) if row["threads"] == 1 else None, "{:.3g}"),  # of one core
        )
        for row in of(results, "latency_table")
    ]
    return table(heads, lines) + latency_provenance(results)


def arm_ratios() -> dict[str, float]:
    """Seconds of the paper's ARM table over MobileNet's, by the names that our rows have."""
    names = {"ResNet-18": "resnet18", "MobileNet 1.0": "mobilenet_v1"}
    rows = published.read_published(ROOT / paths.PUBLISHED).table("arm")
    seconds = {entry.preset or names.get(entry.model, entry.model): entry.first("arm_latency_s") for entry in rows}
    yardstick = seconds["mobilenet_v1"]
    assert yardstick is not None
    return {name: found.value / yardstick.value for name, found in seconds.items() if found is not None}


def latency_provenance(results: Rows) -> str:
    """A line a file, and the peak that it was measured beside."""
    lines = []
    for name in results:
        rows = list(of({name: results[name]}, "latency_table"))
        peaks = {row["threads"]: f"{row['peak_macs_per_s'] / 1e9:.0f} GMAC/s ({row['peak_by']})" for row in rows}
        if rows:
            facts = [rows[0]["device"], f"ONNX Runtime {rows[0]['onnxruntime']}", f"plan: {rows[0]['plan']}"]
            facts += [f"{rows[0]['rounds']} rounds", "batch 1, 224x224"]
            facts += [f"peak on {threads} thread{'s' * (threads > 1)}: {found}" for threads, found in peaks.items()]
            lines.append(f"\n{name}.json: {'; '.join(facts)}.\n")
    return "".join(lines)
