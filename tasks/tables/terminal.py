"""The latency table of ``python -m tasks.tables`` on a terminal or in a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from tasks import outputs, paths
from tasks.arguments import no_arguments
from tasks.errors import run_main
from tasks.report.published import read_published
from tasks.report.terminal_table import PIPE_WIDTH, plain_table
from tasks.tables.content import latency_table


def main() -> None:
    no_arguments()
    print_latency(outputs.read_json(outputs.existing(paths.TABLES / paths.LATENCY, "tables")))


def print_latency(facts: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Print the table in ``facts``, the content of ``latency.json``; nothing if there is none."""
    if not facts.get("rows"):
        return
    content = latency_table(read_published(), facts)
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    table = plain_table()
    for column in content.columns:
        title = f"{column.title}\n{column.unit}" if column.unit else column.title.replace(" to ", "\nto ")
        table.add_column(title, justify="left" if column.is_text else "right", no_wrap=True)
    for row in content.rows:
        table.add_row(*(f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row))
    console.print(Text(f"\n{content.caption}\n"))
    console.print(table)
    for note in (*content.notes, f"FLOPs and parameters: {paths.TABLES / paths.TABLES_MD}"):
        console.print(Text(note))


if __name__ == "__main__":
    run_main(main)
