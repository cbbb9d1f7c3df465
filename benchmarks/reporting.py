"""What every script here shares: arguments, the device's name, spreads, the table and the JSON file."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch

from condensenet.files import read_regular, write_atomically
from condensenet.machine import hardware
from tasks.errors import UserError

Row = Mapping[str, Any]
MAX_BYTES = 2**26  # of a file of rows; the largest has 130 kB


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
    arguments.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the rows of the table as a JSON list"
    )
    if quick:
        arguments.add_argument("--quick", action="store_true", help="a figure in under 50 seconds on two cores")
    return arguments


def output_file(path: str) -> Path:
    """A file that can be written, as the type of an argument; else ``UserError`` before anything is measured."""
    file = Path(path)
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with TemporaryFile(dir=next(folder for folder in file.absolute().parents if os.path.lexists(folder))):
            return file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def start(main: Callable[[], None]) -> None:
    """Run a script; a user's mistake, or a disk that is full, ends it with one line."""
    try:
        main()
    except (UserError, ValueError, OSError) as error:
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
    """The rows as a JSON list; nothing without a path. Raises ``UserError`` for a figure that is not finite."""
    if path is None:
        return
    for row in rows:
        for column, value in row.items():
            _check(path, column, value)
    write_atomically(path, (json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n").encode())


def _check(path: Path, column: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise UserError(f"{path} is not written: {column}={value} is not finite") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What ``write_rows`` wrote. Raises ``UserError`` that names a file which holds anything else."""
    try:
        text = read_regular(path, MAX_BYTES).decode()
        rows = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise ValueError("it is not a list of objects")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} has no rows of a table: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path} has no rows of a table: {error}") from None
    return rows


def _finite(number: str) -> float:
    """Raises ``ValueError`` for what is too large too: Python reads 1e999 as infinity."""
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is no finite number")
    return float(number)
