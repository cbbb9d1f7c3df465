"""The table of docs/RESULTS.md that compares inference runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.pages.markdown import Results, Row, maybe, provenance, rows_of, spread, table

MISSING = "–"


def runtimes(results: Results) -> str:
    """A row for each runtime, network and form; one that is not timed says why in place of its time."""
    columns = (
        ("Runtime", lambda row: f"{row['runtime']} {row.get('version', '')}".rstrip()),
        ("Network", lambda row: row.get("model", MISSING)),
        ("Form", lambda row: row.get("form", MISSING)),
        ("Median, ms (p10 to p90)", _or_note(spread("median_ms", "{:.1f}", "p10_ms", "p90_ms"))),
        ("Ratio to MobileNetV1 there", _if_timed(spread("ratio_to_mobilenet_v1", "{:.2f}", "ratio_p10", "ratio_p90"))),
        ("Ratio to MobileNetV1 in ONNX Runtime", _if_timed(spread("ratio_to_onnxruntime", "{:.2f}"))),
        ("Largest difference", lambda row: maybe(row.get("difference"), "{:.0e}")),
    )
    script = "runtimes"
    return table(columns, rows_of(results, script)) + provenance(results, script, _facts)


def _or_note(cell: Callable[[Row], str]) -> Callable[[Row], str]:
    return lambda row: str(row["note"]) if "note" in row else cell(row)


def _if_timed(cell: Callable[[Row], str]) -> Callable[[Row], str]:
    return lambda row: MISSING if "note" in row else cell(row)


def _facts(rows: Sequence[Row]) -> list[str]:
    row = rows[0]
    threads = next((row["threads"] for row in rows if "threads" in row), 1)
    return [
        row["device"],
        row["instruction_set"],
        f"{row['rounds']} rounds, {'processor' if row['clock'] == 'cpu' else 'wall'} time",
        f"batch 1, 224x224, {threads} thread{'s' * (threads > 1)}",
    ]
