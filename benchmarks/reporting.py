"""What every script here shares: its arguments, the device's name, spreads, the table and the JSON file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condensenet.files import write_atomically
from condensenet.machine import hardware

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """Median and the 10th and 90th percentile of what was measured."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        p10, median, p90 = np.percentile(np.fromiter(values, dtype=float), [10, 50, 90]).tolist()
        return cls(median, p10, p90)


def parser(description: str | None) -> argparse.ArgumentParser:
    """With ``--json`` and ``--quick``, which every script has."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the rows of the table there, a JSON list")
    arguments.add_argument("--quick", action="store_true", help="a figure in under 50 seconds on two cores")
    return arguments


def start(main: Callable[[], None]) -> None:
    """Run a script; what its user caused ends it in one line."""
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def chosen_device(name: str) -> torch.device:
    """Raises ``ValueError`` for a GPU that is not there."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name} is not allowed: there is no GPU")
    return device


def device_name(device: torch.device) -> str:
    """The GPU, or the CPU with the number of threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{hardware()['cpu']}, {torch.get_num_threads()} threads"


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Aligned columns of the rows' values; what a row lacks is a dash."""
    cells = [list(columns), *([shown(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    numeric = [all(not isinstance(row.get(name), str) for row in rows) for name in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """Four digits that count of a float; a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def write_rows(path: Path | None, rows: Sequence[Row]) -> None:
    """The rows as a JSON list; nothing without a path."""
    if path is not None:
        write_atomically(path, (json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n").encode())
