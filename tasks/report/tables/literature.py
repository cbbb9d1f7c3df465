"""What others report, with what was measured here in columns of its own."""

from __future__ import annotations

from typing import NamedTuple

from tasks.report import formats
from tasks.report.published import Published, PublishedFigure, PublishedModel, dataset_of
from tasks.report.results import SettingResult, Study
from tasks.report.tables.cells import DASH, NOT_RUN, SETTING, Cell, Column, Table, make_cells, setting_rows

TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 50_000}
COUNTS = {"paper_flops": "paper's FLOPs", "macs": "MACs", "params": "parameters"}


class PublishedTable(NamedTuple):
    """A table of ``conf/published.yaml``; ``titles`` names the figures that could be measured here."""

    caption: str
    name: str
    counts: tuple[str, ...]
    titles: dict[str, str]


TABLES = (
    PublishedTable(
        "CIFAR, error in %",
        "cifar",
        ("paper_flops", "params"),
        {"cifar10_error_pct": "CIFAR-10 error", "cifar100_error_pct": "CIFAR-100 error"},
    ),
    PublishedTable(
        "ImageNet, error in %",
        "imagenet",
        ("paper_flops", "macs", "params"),
        {"imagenet_error_pct": "top-1 error", "imagenet_top5_error_pct": "top-5 error"},
    ),
    PublishedTable(
        "One ARM core, 224×224 pixels, batch 1 (Jetson TX2, PyTorch)", "arm", (), {"arm_latency_s": "seconds"}
    ),
)


def published_tables(study: Study, published: Published) -> list[Table]:
    """The published tables; "measured here" holds this study's error of the same network."""
    return [_published_table(table, study, published) for table in TABLES]


def _published_table(table: PublishedTable, study: Study, published: Published) -> Table:
    columns = [Column("model", is_text=True)]
    columns += [Column(COUNTS[name], "published", is_published=True) for name in table.counts]
    for title in table.titles.values():
        columns += [Column(title, "published", is_published=True), Column(title, "measured here")]
    columns.append(Column("source", is_text=True))
    models, rows = published.table(table.name), []
    for model in models:
        cells: list[Cell | str] = [model.model, *(published_text(model, name) for name in table.counts)]
        for name in table.titles:
            cells += [published_text(model, name), _measured(model, name, study, published)]
        rows.append(make_cells([*cells, model.source]))
    notes = [f"{source}: {published.sources[source]}." for source in dict.fromkeys(model.source for model in models)]
    return Table(table.caption, columns, rows, [*notes, *mark_notes(published)])


def _measured(model: PublishedModel, name: str, study: Study, published: Published) -> Cell:
    """This study's error of a published network, or "not run"."""
    dataset = dataset_of(study.params)
    metric = {f"{dataset}_error_pct": "test_error_pct", f"{dataset}_top5_error_pct": "test_top5_error_pct"}.get(name)
    for result in study.results:
        if metric is not None and published.match(result.setting.model, dataset) is model:
            error = result.metrics.get(metric)
            return Cell(formats.percent(error), result.name if error is not None else "")
    return NOT_RUN


def comparison_table(study: Study, published: Published) -> Table | None:
    """Measured and published figures of the same networks, side by side; None if none was published."""
    dataset = dataset_of(study.params)
    titles = {f"{dataset}_error_pct": "test error", f"{dataset}_top5_error_pct": "top-5 error"}
    titles |= {name: COUNTS[name] for name in ("paper_flops", "params")}
    matches = {result.name: published.match(result.setting.model, dataset) for result in study.results}
    names = [name for name in titles if any(model is not None and name in model.figures for model in matches.values())]
    if not names:
        return None
    columns = [SETTING, Column("published as", is_text=True)]
    for name in names:
        columns += [Column(titles[name], "measured here"), Column(titles[name], "published", is_published=True)]

    def values(result: SettingResult) -> list[str]:
        model = matches[result.name]
        pairs = [(_own_figure(result, name), published_text(model, name)) for name in names]
        return [model.model if model is not None else DASH, *(text for pair in pairs for text in pair)]

    notes = [_recipe_note(study), *image_set_notes(study, dataset), *mark_notes(published)]
    return Table("Measured beside published", columns, setting_rows(study, values), notes)


def _own_figure(result: SettingResult, name: str) -> str:
    if name in COUNTS:
        return formats.short_count(result.metrics.get(name))
    return formats.percent(result.metrics.get("test_top5_error_pct" if "top5" in name else "test_error_pct"))


def _recipe_note(study: Study) -> str:
    epochs, precisions = (
        ", ".join(str(value) for value in sorted({getattr(result.setting.train, name) for result in study.results}))
        for name in ("epochs", "precision")
    )
    return f"The recipe used here may differ from the published one. Here: {epochs} epochs, arithmetic in {precisions}."


def image_set_notes(study: Study, dataset: str | None) -> list[str]:
    """How the images here differ from those the published errors were measured on."""
    notes = []
    images = (study.manifest or {}).get("splits", {}).get("test")
    if images is not None and dataset is not None and images != TEST_IMAGES[dataset]:
        notes.append(f"Not the same test images: measured on {images:,}, published on {TEST_IMAGES[dataset]:,}.")
    if dataset in ("cifar10", "cifar100") and study.params.data.source != dataset:
        notes.append("Published for the original pixels; the images here were read from encoded files.")
    return notes


def mark_notes(published: Published) -> list[str]:
    return [f"[{mark}] {text}." for mark, text in published.marks.items() if mark != "V"]


def published_text(model: PublishedModel | None, name: str) -> str:
    """The published values of one cell; a value that was not checked at its source carries its mark."""
    figures = model.figures.get(name, ()) if model is not None else ()
    return "; ".join(figure_text(figure, name) for figure in figures) or DASH


def figure_text(figure: PublishedFigure, name: str) -> str:
    if name.endswith("_pct"):
        text = f"{figure.value:.2f}" if name.startswith("cifar") else f"{figure.value:.1f}"
    elif name.endswith("_s"):
        text = f"{figure.value:g}"
    else:
        text = formats.published_count(figure.value)
    return text if figure.mark == "V" else f"{text} [{figure.mark}]"
