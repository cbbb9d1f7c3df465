"""Tables between markers in a page. Each marker is a line of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from benchmarks.pages.markdown import Results

MARKER = re.compile(r"^<!-- (?:table ([\w-]+)|end) -->$", re.MULTILINE)
END = "<!-- end -->"

Tables = Mapping[str, Callable[[Results], str]]


def render(page: str, tables: Tables, results: Results) -> str:
    """``page`` with every table regenerated.

    Raises ``ValueError`` that names the marker unless every table of ``tables`` stands in it once, and no other.
    """
    done, position = [], 0
    for name, start, end in [*_blocks(page, tables)]:  # all are checked first
        done += [page[position:start], f"\n\n{tables[name](results)}\n"]
        position = end
    return "".join([*done, page[position:]])


def _blocks(page: str, tables: Tables) -> Iterator[tuple[str, int, int]]:
    """Name, end of the first marker and start of the last, for every table."""
    opened: re.Match[str] | None = None
    seen: set[str] = set()
    for marker in MARKER.finditer(page):
        line = page.count("\n", 0, marker.start()) + 1
        where = f"{marker[0]} in line {line}"
        if marker[0] == END:
            if opened is None:
                raise ValueError(f"{where} ends no table")
            yield opened[1], opened.end(), marker.start()
            opened = None
            continue
        if opened is not None:
            raise ValueError(f"{opened[0]} has no {END} in a line of its own before {where}")
        if marker[1] not in tables:
            raise ValueError(f"{where} is no table of this page: {', '.join(tables) or 'it has none'}")
        if marker[1] in seen:
            raise ValueError(f"{where} is there twice")
        seen.add(marker[1])
        opened = marker
    if opened is not None:
        raise ValueError(f"{opened[0]} has no {END} in a line of its own after it")
    for name in tables:
        if name not in seen:
            raise ValueError(f"<!-- table {name} --> is missing in a line of its own")
