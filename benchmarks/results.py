"""Regenerate the tables of README.md, docs/RESULTS.md and docs/PAPER.md from benchmarks/results; none is typed by hand.

    python -m benchmarks.results            rewrite the tables and the picture of README.md
    python -m benchmarks.results --check    write nothing; fail if a table or the picture is out of date

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``. The other scripts write the files with ``--json``.
A table without a file says that it was not measured here.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.front_tables import TABLES as FRONT_TABLES
from benchmarks.front_tables import draw
from benchmarks.paper_tables import TABLES as PAPER_TABLES
from benchmarks.pictures import is_same
from benchmarks.results_markdown import ROOT, Results
from benchmarks.results_tables import TABLES as RESULT_TABLES
from condensenet.files import write_atomically

PAGES = {
    ROOT / "README.md": FRONT_TABLES,
    ROOT / "docs" / "RESULTS.md": RESULT_TABLES,
    ROOT / "docs" / "PAPER.md": PAPER_TABLES,
}
TABLES = {**FRONT_TABLES, **RESULT_TABLES, **PAPER_TABLES}
PICTURE = ROOT / "docs" / "tradeoff.svg"
FOLDER = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main() -> None:
    options = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    options.add_argument("--check", action="store_true", help="write nothing; fail if something is out of date")
    check = options.parse_args().check
    results = read(FOLDER)
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = render(old, results)
        if not check:
            write_atomically(page, new.encode())
        elif new != old:
            sys.exit(f"error: {page.name} does not match benchmarks/results: run python -m benchmarks.results")
    picture = draw(results)
    if not check:
        write_atomically(PICTURE, picture)
    elif not (PICTURE.exists() and is_same(picture, PICTURE.read_bytes())):
        sys.exit(f"error: {PICTURE.name} does not match benchmarks/results: run python -m benchmarks.results")


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def render(page: str, results: Results) -> str:
    """``page`` with every table regenerated. Raises ``KeyError`` for a table with an unknown name."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]](results)}\n{block[4]}", page)


if __name__ == "__main__":
    main()
