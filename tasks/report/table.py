"""The table of all settings: as rows, as ``table.csv`` and as plain text for a terminal.

A value that was not measured is ``None``, an empty field of the CSV file and "not run" in print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks import paths
from tasks.outputs import read_csv
from tasks.report import units
from tasks.report.read import SettingResult

Value = str | int | float | None
Row = Mapping[str, Value]
INTEGERS = (
    "groups",
    "condensation_factor",
    "test_images",
    "macs",
    "paper_flops",
    "params",
    "file_bytes",
    "latency_batch",
    "latency_threads",
)
TEXTS = ("setting", "hardware", "runtime")
HEADER = (
    "setting",
    "G",
    "C",
    "error %",
    "MACs",
    "paper FLOPs",
    "params",
    "latency ms",
    "ratio",
    "plain ms",
    "ONNX file",
)


def make_row(result: SettingResult) -> dict[str, Value]:
    """One row of the table: the grouped form's cost, and every form's latency of batch 1 on one thread."""
    model = result.setting.model
    grouped = (result.cost or {}).get("grouped", {})
    accuracy = (result.evaluation or {}).get("onnxruntime", {})
    latency = result.latency_row() or {}
    return {
        "setting": result.name,
        "groups": model.groups_1x1,
        "condensation_factor": model.condensation_factor,
        "test_error_pct": accuracy.get("top1_error_pct"),
        "macs": grouped.get("macs"),
        "paper_flops": grouped.get("paper_flops"),
        "params": grouped.get("params"),
        "latency_ms": latency.get("median_ms"),
        "latency_ratio": latency.get("ratio"),
        "file_bytes": (result.export or {}).get("file_bytes"),
        "test_top5_error_pct": accuracy.get("top5_error_pct"),
        "test_images": (result.evaluation or {}).get("images"),
        "latency_p10_ms": latency.get("p10_ms"),
        "latency_p90_ms": latency.get("p90_ms"),
        **_other_forms(result),
        "yardstick_latency_ms": latency.get("yardstick_median_ms"),
        "latency_batch": latency.get("batch"),
        "latency_threads": latency.get("threads"),
        "hardware": hardware_line(result) if latency else None,
        "runtime": runtime_line(result) if latency else None,
    }


def _other_forms(result: SettingResult) -> dict[str, Value]:
    """``latency_ms_<form>`` and ``latency_ratio_<form>`` of every form but the one that ships."""
    row: dict[str, Value] = {}
    for form in paths.ALL_FORMS:
        if form != paths.LOWERED:
            timed = result.latency_row(form=form) or {}
            row |= {f"latency_ms_{form}": timed.get("median_ms"), f"latency_ratio_{form}": timed.get("ratio")}
    return row


def hardware_line(result: SettingResult) -> str:
    """The machine that a latency was taken on, such as "Xeon (x86_64), 2 cores, 8 GiB, Linux"."""
    found = (result.latency or {}).get("hardware", {})
    cpu = " ".join(str(found.get("cpu", "unknown processor")).split())
    if found.get("architecture"):
        cpu += f" ({found['architecture']})"
    parts = [cpu]
    if found.get("cores"):
        parts.append(f"{found['cores']} cores")
    if found.get("memory_gib"):
        parts.append(f"{found['memory_gib']:.0f} GiB memory")
    if found.get("os"):
        parts.append(str(found["os"]))
    return ", ".join(parts)


def runtime_line(result: SettingResult) -> str:
    """What ran the model, such as "ONNX Runtime 1.31.1, Python 3.11.2"."""
    versions = dict((result.latency or {}).get("versions", {}))
    names = {"onnxruntime": "ONNX Runtime", "python": "Python", "numpy": "NumPy", "torch": "PyTorch"}
    order = sorted(versions, key=lambda key: (key != "onnxruntime", key))
    return ", ".join(f"{names.get(key, key)} {versions[key]}" for key in order)


def machines(results: Sequence[SettingResult]) -> list[str]:
    """What a latency is never printed without: runtime and hardware, named by setting only where they differ."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.latency is not None:
            found.setdefault(f"{runtime_line(result)}; {hardware_line(result)}.", []).append(result.name)
    return [f"{', '.join(names)}: {line}" if len(found) > 1 else line for line, names in found.items()]


def read_table(path: Path) -> list[dict[str, Value]]:
    """The rows of ``table.csv`` with their types; an empty field is ``None``."""
    return [{key: _typed(key, text) for key, text in row.items()} for row in read_csv(path)]


def _typed(key: str, text: str) -> Value:
    if text == "":
        return None
    if key in TEXTS:
        return text
    return int(text) if key in INTEGERS else float(text)


def format_table(rows: Sequence[Row]) -> str:
    """The rows aligned for a terminal, at most 110 columns, with what a latency must not be printed without."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *_notes(rows)])


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows of ``read_table`` (or of ``make_row``)."""
    print(format_table(rows), flush=True)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        units.shorten(str(row["setting"]), 24),
        str(row["groups"]),
        str(row["condensation_factor"]),
        units.percent(row["test_error_pct"]),
        units.count(row["macs"]),
        units.count(row["paper_flops"]),
        units.count(row["params"]),
        units.milliseconds(row["latency_ms"]),
        units.ratio(row["latency_ratio"]),
        units.milliseconds(row.get("latency_ms_plain")),
        units.file_size(row["file_bytes"]),
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """The first column to the left, numbers to the right."""
    first, *rest = (f"{text:>{width}}" for text, width in zip(row, widths, strict=True))
    return "  ".join([f"{row[0]:<{widths[0]}}", *rest]).rstrip() if first else ""


def _notes(rows: Sequence[Row]) -> list[str]:
    """What the columns mean, and the machine beside every latency."""
    notes = ["MACs, paper FLOPs and params: grouped form (what is exported). paper FLOPs: counted as the authors do."]
    images = {row.get("test_images") for row in rows} - {None}
    if images:
        notes.append(f"error: top-1 over {' or '.join(str(count) for count in sorted(images, key=str))} test images.")
    machines: dict[str, list[str]] = {}
    for row in rows:
        if row.get("latency_ms") is not None:
            line = f"{row.get('runtime')}, {row.get('hardware')}"
            machines.setdefault(line, []).append(str(row["setting"]))
    if machines:
        notes.append("latency: median, batch 1, 1 thread. ratio: to MobileNetV1, timed in turn with it.")
        notes.append("plain: the same network as PyTorch exports it, not lowered.")
    for line, settings in machines.items():
        where = f"{', '.join(settings)}: " if len(machines) > 1 else ""
        notes.append(units.shorten(f"  {where}{line}", 110))
    return notes
