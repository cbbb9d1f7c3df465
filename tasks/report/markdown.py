"""The report as a Markdown file: all tables, no figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks import paths
from tasks.report.published import Published
from tasks.report.results import Study
from tasks.report.tables.cells import Table
from tasks.report.tables.overview import comparison
from tasks.report.tables.provenance import data_facts
from tasks.report.tables.sections import report_tables


def render(study: Study, published: Published) -> str:
    return "\n".join(_lines(study, published)).rstrip() + "\n"


def _lines(study: Study, published: Published) -> Iterator[str]:
    yield f"# CondenseNet: study {escape(study.params.study)}\n"
    yield f"{escape(comparison(study))}\n"
    yield f"{paths.REPORT_HTML} also has the training curves and the maps of kept connections.\n"
    for section, tables in report_tables(study, published).items():
        yield f"## {section}\n"
        yield from map(render_table, tables)
    yield from (f"- **{name}**: {escape(value)}" for name, value in data_facts(study))


def render_table(table: Table) -> str:
    """A pipe table with its caption above and its notes below."""
    titles = [f"{column.title} ({column.unit})" if column.unit else column.title for column in table.columns]
    lines = [f"**{escape(table.caption)}**", "", _row(titles)]
    lines.append("|" + "|".join(" :-- " if column.is_text else " --: " for column in table.columns) + "|")
    for row in table.rows:
        lines.append(_row([f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row]))
    return "\n".join([*lines, "", *(f"{escape(note)}\n" for note in table.notes)])


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(escape(text.replace("\n", ", ")) for text in texts) + " |"


def escape(text: str) -> str:
    """Text that must not be taken for markup."""
    for character in "\\|*_<>[]`":
        text = text.replace(character, f"\\{character}")
    return text
