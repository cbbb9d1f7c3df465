"""What every script here shares: arguments, the device's name, spreads, the table and the JSON file."""

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
from tasks.errors import UserError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """Median, 10th and 90th percentile of a measurement."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        p10, median, p90 = np.percentile(np.fromiter(values, dtype=float), [10, 50, 90]).tolist()
        return cls(median, p10, p90)

    def named(self, name: str, unit: float = 1.0) -> dict[str, float]:
        """``name``, ``name_p10`` and ``name_p90``, multiplied by ``unit``."""
        return {name: unit * self.median, f"{name}_p10": unit * self.p10, f"{name}_p90": unit * self.p90}


def parser(description: str | None, *, quick: bool = True) -> argparse.ArgumentParser:
    """A parser with ``--json`` and, where a script measures, ``--quick``."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(sys.argv[0]).stem}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the rows of the table as a JSON list")
    if quick:
        arguments.add_argument("--quick", action="store_true", help="a figure in under 50 seconds on two cores")
    return arguments


def start(main: Callable[[], None]) -> None:
    """Run a script; a user's mistake ends it with one line."""
    try:
        main()
    except (UserError, ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def chosen_device(name: str) -> torch.device:
    """Raises ``ValueError`` for a GPU that does not exist."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name} is not allowed: there is no GPU")
    return device


def device_name(device: torch.device) -> str:
    """The GPU, or the CPU with its number of compute threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{hardware()['cpu']}, {torch.get_num_threads()} threads"


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Aligned columns; a missing value is a dash."""
    lines = [list(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    is_text = [any(isinstance(row.get(name), str) for row in rows) for name in columns]
    formats = [f"{'<' if left else '>'}{width}" for left, width in zip(is_text, widths, strict=True)]
    return "\n".join("  ".join(map(format, line, formats)).rstrip() for line in lines)


def cell(value: Any) -> str:
    """Four significant digits of a float; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def write_rows(path: Path | None, rows: Sequence[Row]) -> None:
    """The rows as a JSON list; nothing without a path."""
    if path is not None:
        write_atomically(path, (json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n").encode())
