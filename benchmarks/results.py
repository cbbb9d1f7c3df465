"""Regenerate the tables of README.md, docs/RESULTS.md and docs/PAPER.md from benchmarks/results; none is typed by hand.

    python -m benchmarks.results            rewrite the tables and the picture of README.md
    python -m benchmarks.results --check    write nothing; fail if a table or the picture is out of date

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``. The other scripts write the files with ``--json``.
A table without a file says that it was not measured here.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.pages.blocks import Tables, render
from benchmarks.pages.front_tables import TABLES as FRONT_TABLES
from benchmarks.pages.front_tables import draw
from benchmarks.pages.markdown import ROOT, Results
from benchmarks.pages.paper_tables import TABLES as PAPER_TABLES
from benchmarks.pages.pictures import is_same
from benchmarks.pages.speed_tables import TABLES as RESULT_TABLES
from benchmarks.reporting import read_rows, start
from condensenet.files import write_atomically
from tasks.errors import UserError

PAGES = {
    ROOT / "README.md": FRONT_TABLES,
    ROOT / "docs" / "RESULTS.md": RESULT_TABLES,
    ROOT / "docs" / "PAPER.md": PAPER_TABLES,
}
PICTURE = ROOT / "docs" / "tradeoff.svg"
FOLDER = ROOT / "benchmarks" / "results"


def main() -> None:
    options = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    options.add_argument("--check", action="store_true", help="write nothing; fail if something is out of date")
    check = options.parse_args().check
    results = read(FOLDER)
    pages = {page: rendered(page, tables, results) for page, tables in PAGES.items()}
    stale = {page: new for page, new in pages.items() if new != page.read_bytes()}
    picture = draw(results)
    if not (PICTURE.exists() and is_same(picture, PICTURE.read_bytes())):
        stale[PICTURE] = picture
    if check and stale:
        names = ", ".join(path.name for path in stale)
        raise UserError(f"out of date with benchmarks/results: {names}; run python -m benchmarks.results")
    for path, new in stale.items():
        write_atomically(path, new)


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: read_rows(path) for path in sorted(folder.glob("*.json"))}


def rendered(page: Path, tables: Tables, results: Results) -> bytes:
    """The page as it should be, with the line ends of Unix. Raises ``UserError`` for its markers."""
    try:
        return render(page.read_text(encoding="utf-8"), tables, results).encode()
    except ValueError as error:
        raise UserError(f"{page.name}: {error}") from error


if __name__ == "__main__":
    start(main)
