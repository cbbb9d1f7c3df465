"""The page: one HTML file that needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.report import content, details, drawing, forms
from tasks.report.pictures import Picture
from tasks.report.published import Published
from tasks.report.read import Study

HERE = Path(__file__).parent


def render(study: Study, published: Published, pictures: dict[str, list[Picture]]) -> str:
    """The whole page; ``pictures`` holds the figures of the sections scatters, curves and maps."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = as_svg
    return environment.get_template("page.html").render(
        study=study,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        summary=details.summary(study),
        headline=content.headline(study, published),
        beside=details.beside_published(study, published),
        latency=content.latency(study),
        forms=forms.forms(study),
        costs=content.costs(study),
        training=details.training(study),
        per_class=details.per_class(study),
        published_tables=details.published_tables(study, published),
        runs=details.runs(study),
        hashes=details.hashes(study),
        facts=details.facts(study),
        scatters=pictures["scatters"],
        curves=pictures["curves"],
        maps=by_setting(pictures["maps"]),
        colours=len(drawing.SERIES),
    )


def as_svg(picture: Picture) -> Markup:
    key = re.sub(r"[^A-Za-z0-9-]", "-", picture.key)
    return Markup(drawing.to_svg(picture.figure, key, picture.label))


def by_setting(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        found.setdefault(picture.setting, []).append(picture)
    return found
