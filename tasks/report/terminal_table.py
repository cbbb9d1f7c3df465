"""The table of all settings on a terminal or in a pipe, and how tables look there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.report import formats
from tasks.report.machines import machine_notes

Row = Mapping[str, str | int | float | None]
MIN_WIDTH = 80  # columns; in less, figures would be cut off
PIPE_WIDTH = 110
HEADER = ("G", "C", "error\n%", "MACs", "paper\nFLOPs", "params", "latency\nms", "ratio", "plain\nms", "ONNX\nfile")


def print_table(rows: Sequence[Row], file: TextIO | None = None) -> None:
    """Print the rows of ``table.csv``, with the notes that a latency needs; only the first column may wrap."""
    console = Console(file=file, highlight=False)
    console.width = max(console.width, MIN_WIDTH) if console.is_terminal else PIPE_WIDTH
    table = plain_table()
    table.add_column("setting", overflow="fold", vertical="bottom")
    for title in HEADER:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(str(row["setting"])), *_figures(row))
    console.print(table)
    for note in _notes(rows):
        console.print(Text(note))


def plain_table() -> Table:
    """An empty table with a line below its header and none around it."""
    return Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _figures(row: Row) -> tuple[str, ...]:
    return (
        str(row["groups"]),
        str(row["condensation_factor"]),
        formats.percent(row["test_error_pct"]),
        formats.short_count(row["macs"]),
        formats.short_count(row["paper_flops"]),
        formats.short_count(row["params"]),
        formats.milliseconds(row["latency_ms"]),
        formats.ratio(row["latency_ratio"]),
        formats.milliseconds(row.get("latency_ms_plain")),  # older tables lack it
        formats.file_size(row["file_bytes"]),
    )


def _notes(rows: Sequence[Row]) -> list[str]:
    """What the columns mean, and the machine behind every latency."""
    notes = ["MACs, FLOPs and params: grouped form (what is exported). Paper FLOPs: counted as the authors do."]
    images = sorted({int(row["test_images"]) for row in rows if row["test_images"] is not None})
    if images:
        notes.append(f"Error: top-1 on {' or '.join(map(str, images))} test images.")
    machines = machine_notes(rows)
    if machines:
        notes.append("Latency: median at batch 1 on one thread. Ratio: to MobileNetV1, timed alternately with it.")
        notes.append("Plain: the same network as PyTorch exports it, not lowered.")
    return notes + machines
