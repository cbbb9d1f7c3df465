"""Reading the Markdown tables that the project writes, so that tests look at figures and not at layout."""

from __future__ import annotations


def columns(text: str) -> list[str]:
    """The headings of the first table in ``text``."""
    return _cells(next(line for line in text.splitlines() if line.startswith("|")))


def rows(text: str) -> list[dict[str, str]]:
    """Its rows by heading; of headings that occur twice the second is called ``<heading> (2)``."""
    names: list[str] = []
    for name in columns(text):
        names.append(f"{name} (2)" if name in names else name)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(names, _cells(line), strict=True)) for line in lines[2:]]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]
