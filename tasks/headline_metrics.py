"""The headline metrics: what settings are compared by, each named once, read from the stages' outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks import paths
from tasks.outputs import read_json_or_empty


def stage_metrics(study: str, setting: str, stage: str, workspace: Path = Path()) -> dict[str, float]:
    """The headline figures in the outputs of one stage; none if it has none."""
    if stage not in SOURCES:
        return {}
    name, metrics = SOURCES[stage]
    return metrics(read_json_or_empty(workspace / paths.StudyPaths(study).setting(stage, setting) / name))


def cost_metrics(cost: Mapping[str, Any]) -> dict[str, float]:
    """From ``cost.json``: the grouped form, which is what ships."""
    return numbers(cost.get("grouped", {}), "macs", "paper_flops", "params")


def export_metrics(export: Mapping[str, Any]) -> dict[str, float]:
    """From ``export.json``: the file that ships."""
    return numbers(export, "file_bytes", "max_relative_difference")


def evaluation_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """From ``evaluate/metrics.json``: the errors of the file that ships, in percent, and its calibration error.

    PyTorch's error is added if it differs, and the int8 file's if that file was kept.
    """
    ort, torch, int8 = (metrics.get(name, {}) for name in ("onnxruntime", "pytorch", paths.INT8))
    named = {"test_error_pct": ort.get("top1_error_pct"), "test_top5_error_pct": ort.get("top5_error_pct")}
    if torch.get("top1_error_pct") != ort.get("top1_error_pct"):
        named["test_error_pct_pytorch"] = torch.get("top1_error_pct")
    named["test_calibration_error_pct"] = ort.get("calibration_error_pct")
    named["test_error_pct_int8"] = int8.get("top1_error_pct")
    return numbers(named)


def latency_metrics(latency: Mapping[str, Any]) -> dict[str, float]:
    """From ``latency.json``: ``latency_ms`` and ``latency_ratio`` of what ships, at batch 1 on one thread.

    Other forms add a suffix such as ``_plain``, other batch sizes and thread counts one such as ``_b16_t2``. Old files
    name no form: their rows are of the file that ships.
    """
    metrics: dict[str, float] = {}
    for row in latency.get("rows", ()):
        batch, threads, form = row.get("batch"), row.get("threads"), row.get("form", paths.LOWERED)
        named = {"latency_ms": row.get("median_ms"), "latency_ratio": row.get("ratio")}
        suffix = "" if form == paths.LOWERED else f"_{form}"
        suffix += "" if (batch, threads) == (1, 1) else f"_b{batch}_t{threads}"
        metrics.update({f"{name}{suffix}": value for name, value in numbers(named).items()})
    return metrics


SOURCES: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, float]]]] = {
    "convert": (paths.COST, cost_metrics),
    "export": (paths.EXPORT, export_metrics),
    "evaluate": (paths.METRICS, evaluation_metrics),
    "benchmark": (paths.LATENCY, latency_metrics),
}


def numbers(values: Mapping[str, Any], *names: str) -> dict[str, float]:
    """``names`` (all, if none is given) -> the values that are numbers, or read as one."""
    maybe = {name: as_number(values.get(name)) for name in names or values}
    return {name: number for name, number in maybe.items() if number is not None}


def as_number(value: object) -> float | None:
    """``value`` as a float, None if it is not a number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
