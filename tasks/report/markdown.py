"""The report as Markdown that a code host shows: tables, and figures as lines of block characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks.report import content, details, forms, units
from tasks.report.charts import dropping_epochs, measured_split
from tasks.report.connections import connections
from tasks.report.content import Table
from tasks.report.published import Published
from tasks.report.read import SettingResult, Study

BLOCKS = "▁▂▃▄▅▆▇█"
MAX_CURVE = 60  # characters


def render(study: Study, published: Published) -> str:
    """The whole file; it needs no picture beside it."""
    return "\n".join(_lines(study, published)).rstrip() + "\n"


def _lines(study: Study, published: Published) -> Iterator[str]:
    yield f"# CondenseNet: study {study.params.study}\n"
    yield f"{details.summary(study)}\n"
    yield "## Results\n"
    yield table(content.headline(study, published))
    beside = details.beside_published(study, published)
    if beside is not None:
        yield table(beside)
    yield "## Training\n"
    yield from _curves(study)
    yield table(details.training(study))
    yield "## Kept connections\n"
    yield from _maps(study)
    yield "## Details\n"
    yield table(forms.forms(study))
    yield table(content.latency(study))
    yield table(content.costs(study))
    per_class = details.per_class(study)
    yield table(per_class) if per_class is not None else f"Test error by class: {units.NOT_RUN}.\n"
    yield "## What others report\n"
    for each in details.published_tables(study, published):
        yield table(each)
    yield "## Provenance\n"
    yield from (f"- **{name}**: {escape(value)}" for name, value in details.facts(study))
    yield ""
    yield table(details.runs(study))
    yield table(details.hashes(study))


def table(found: Table) -> str:
    """A pipe table with its caption above and its notes below."""
    heads = [f"{c.title}{f' ({c.unit})' if c.unit else ''}" for c in found.columns]
    lines = [f"**{escape(found.caption)}**", "", _row(heads)]
    lines.append("|" + "|".join(" :-- " if c.is_text else " --: " for c in found.columns) + "|")
    for row in found.rows:
        lines.append(_row([f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row]))
    lines.append("")
    lines += [f"{escape(note)}\n" for note in found.notes]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape(cell.replace("\n", ", ")) for cell in cells) + " |"


def escape(text: str) -> str:
    """Text that must not be taken for markup."""
    for character in "\\|*_<>[]`":
        text = text.replace(character, f"\\{character}")
    return text


def _curves(study: Study) -> Iterator[str]:
    results = [result for result in study.results if result.history]
    if not results:
        yield f"Training: {units.NOT_RUN}.\n"
        return
    width = max(len(result.name) for result in results)
    yield "Error by epoch, from 0 (low) to the highest of all; `|` marks an epoch that dropped connections.\n"
    yield "```"
    top = max(row["validation_error_pct"] for result in results for row in result.history)
    for result in results:
        yield from _curve(result, width, top)
    yield "```\n"


def _curve(result: SettingResult, width: int, top: float) -> Iterator[str]:
    step = -(-len(result.history) // MAX_CURVE)
    values = [row["validation_error_pct"] for row in result.history][step - 1 :: step]
    marks = [" "] * len(values)
    for epoch, _ in dropping_epochs(result):
        marks[min((epoch - 1) // step, len(marks) - 1)] = "|"
    line = "".join(block(value / top if top > 0 else 0.0) for value in values)
    yield f"{result.name:<{width}}  {line}  {values[-1]:.2f}% on {measured_split(result)} images"
    if "|" in marks:
        yield f"{'':<{width}}  {''.join(marks).rstrip()}"


def block(share: float) -> str:
    """A block character as high as ``share`` (0 to 1)."""
    return BLOCKS[min(int(max(share, 0.0) * len(BLOCKS)), len(BLOCKS) - 1)]


def _maps(study: Study) -> Iterator[str]:
    yield (
        "A line a layer, a character a source (the stem, then every earlier layer in order): the share of the "
        "connections that was kept, from `·` (none) to `█` (all).\n"
    )
    for result in study.results:
        if not result.kept:
            yield f"{result.name}: {units.NOT_RUN}.\n"
            continue
        layers = connections(result.setting.model, result.kept)
        width = max(len(layer.name) for layer in layers)
        yield f"**{result.name}**\n"
        yield "```"
        for layer in layers:
            yield f"{layer.name:<{width}}  {''.join(block(s) if s > 0 else '·' for s in layer.kept_shares())}"
        yield "```\n"
