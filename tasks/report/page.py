"""The report as one HTML file that refers to no other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.colours import SERIES
from tasks.report.figures import saving
from tasks.report.figures.saving import ReportFigure
from tasks.report.published import Published
from tasks.report.results import Study
from tasks.report.tables.overview import comparison
from tasks.report.tables.provenance import data_facts
from tasks.report.tables.sections import report_tables

HERE = Path(__file__).parent


def render(study: Study, published: Published, figures: Mapping[str, Sequence[ReportFigure]]) -> str:
    """The page; ``figures`` has the keys errors, curves and connections."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = as_svg
    return environment.get_template("page.html").render(
        study=study.params.study,
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        comparison=comparison(study),
        tables=report_tables(study, published),
        facts=data_facts(study),
        figures=figures,
        connections={name: list(group) for name, group in groupby(figures["connections"], lambda f: f.setting)},
        colours=len(SERIES),
    )


def as_svg(figure: ReportFigure) -> Markup:
    key = re.sub(r"[^A-Za-z0-9-]", "-", figure.key)
    return Markup(saving.to_svg(figure.figure, key, figure.label))
