"""Published figures of the networks of a study, beside what was measured here and in columns of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.report import formats
from tasks.report.published import Published, PublishedModel, dataset_of
from tasks.report.results import SettingResult, Study
from tasks.report.tables.cells import DASH, SETTING, Column, Table, setting_rows

TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 50_000}
COUNTS = {"paper_flops": "paper's FLOPs", "params": "parameters"}
RATIO = "latency_ratio"
RATIO_NOTE = "The published ratio is of seconds on one core of a Jetson TX2 (ARM) with PyTorch, at 224×224 pixels."


def comparison_table(study: Study, published: Published) -> Table | None:
    """Measured and published figures of the same networks, side by side; None if none was published."""
    dataset = dataset_of(study.params)
    titles = {f"{dataset}_error_pct": "test error", f"{dataset}_top5_error_pct": "top-5 error"}
    titles |= {**COUNTS, RATIO: "ratio to MobileNetV1"}
    matches = {result.name: published.match(result.setting.model, dataset) for result in study.results}
    figures = {name: _figures(model, published) for name, model in matches.items()}
    names = [name for name in titles if any(name in own for own in figures.values())]
    if not names:
        return None
    columns = [SETTING, Column("published as", is_text=True)]
    for name in names:
        own = "counted here" if name in COUNTS else "measured here"
        columns += [Column(titles[name], own), Column(titles[name], "published", is_published=True)]

    def values(result: SettingResult) -> list[str]:
        model, own = matches[result.name], figures[result.name]
        pairs = [(_own_figure(result, name), figure_text(own.get(name), name)) for name in names]
        return [model.model if model is not None else DASH, *(text for pair in pairs for text in pair)]

    notes = [*_source_notes(matches.values(), published), *([RATIO_NOTE] if RATIO in names else [])]
    notes += [_recipe_note(study), *image_set_notes(study, dataset)]
    return Table("Measured beside published", columns, setting_rows(study, values), notes)


def _figures(model: PublishedModel | None, published: Published) -> Mapping[str, float]:
    """The published figures of a network, with its ratio of latencies if there is one."""
    if model is None:
        return {}
    ratios = published.arm_ratios()
    return {**model.figures, RATIO: ratios[model.key]} if model.key in ratios else model.figures


def _own_figure(result: SettingResult, name: str) -> str:
    if name in COUNTS:
        return formats.short_count(result.metrics.get(name))
    if name == RATIO:
        return formats.ratio(result.metrics.get(name))
    return formats.percent(result.metrics.get("test_top5_error_pct" if "top5" in name else "test_error_pct"))


def _source_notes(models: Iterable[PublishedModel | None], published: Published) -> list[str]:
    sources = dict.fromkeys(model.source for model in models if model is not None)
    return [f"Published in {published.sources[source]}." for source in sources]


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


def published_text(model: PublishedModel | None, name: str) -> str:
    return DASH if model is None else figure_text(model.figures.get(name), name)


def figure_text(value: float | None, name: str) -> str:
    """A published figure with about as many digits as its source gives."""
    if value is None:
        return DASH
    if name.endswith("_pct"):
        return f"{value:.2f}" if name.startswith("cifar") else f"{value:.1f}"
    return formats.ratio(value) if name == RATIO else formats.published_count(value)
