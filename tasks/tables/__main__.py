"""``python -m tasks.tables``: counts and times the networks of the paper's tables, and writes the tables."""

from __future__ import annotations

from typing import Any

from tasks import outputs, params, paths, tracking
from tasks.arguments import no_arguments
from tasks.console import say
from tasks.errors import run_main
from tasks.report.published import Published, read_published
from tasks.tables.cost import Row, cost_rows
from tasks.tables.latency import time_networks
from tasks.tables.markdown import render


def main() -> None:
    no_arguments()
    loaded, published = params.load(), read_published()
    costs, facts = cost_rows(published), time_networks(loaded.tables)
    write(published, costs, facts)
    tracking.record_tables(loaded, facts)
    say(f"tables: {paths.TABLES / paths.TABLES_MD}")


def write(published: Published, costs: list[Row], facts: dict[str, Any]) -> None:
    """Write the outputs of the stage."""
    outputs.write_csv(paths.TABLES / paths.COST_TABLE, costs)
    outputs.write_json(paths.TABLES / paths.LATENCY, facts)
    outputs.write_text(paths.TABLES / paths.TABLES_MD, render(published, costs, facts))


if __name__ == "__main__":
    run_main(main)
