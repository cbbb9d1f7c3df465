"""Building blocks for the tables: rows of one script, Markdown tables, and formatted cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOT_MEASURED = "not measured here"
STUDY = "study-"  # begins the name of a study's file
Row = Mapping[str, Any]
Results = Mapping[str, Sequence[Row]]  # rows by file name without .json
Column = tuple[str, Callable[[Any], str]]  # its heading, and the cell of a row


def files_of(results: Results, script: str) -> Iterator[tuple[str, Sequence[Row]]]:
    """(name, rows) of every non-empty file of ``script``, which is called SCRIPT or SCRIPT-something.

    That of a study is called study-NAME and nothing else: cifar10-short-longer would be another study.
    """
    for name, rows in results.items():
        is_variant = name.startswith(f"{script}-") and not script.startswith(STUDY)
        if rows and (name == script or is_variant):
            yield name, rows


def rows_of(results: Results, script: str) -> list[Row]:
    return [row for _, rows in files_of(results, script) for row in rows]


def table(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    if not rows:
        return f"_{NOT_MEASURED}_\n"
    lines = [[heading for heading, _ in columns], ["---"] * len(columns)]
    lines += [[cell(row) for _, cell in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def provenance(results: Results, script: str, describe: Callable[[Sequence[Row]], Sequence[str]]) -> str:
    """One line for each file of ``script``: where and with what it was measured."""
    return "".join(f"\n{name}.json: {'; '.join(describe(rows))}.\n" for name, rows in files_of(results, script))


def text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name])


def formatted(name: str, form: str) -> Callable[[Row], str]:
    """The value in ``form``, or a dash where there is none."""
    return lambda row: maybe(row.get(name), form)


def spread(name: str, form: str, p10: str | None = None, p90: str | None = None) -> Callable[[Row], str]:
    """A median and, where recorded, its 10th and 90th percentile (by default ``name_p10`` and ``name_p90``)."""
    low, high = p10 or f"{name}_p10", p90 or f"{name}_p90"

    def cell(row: Row) -> str:
        median = form.format(row[name])
        return median if row.get(low) is None else f"{median} ({form.format(row[low])} to {form.format(row[high])})"

    return cell


def number(value: float) -> str:
    """Three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def maybe(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
