"""Published figures: each has a mark and a source, and none can be mistaken for a measured one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report_outputs import digits, write_study

from condensenet.models.presets import presets
from tasks.errors import UserError
from tasks.params import DataParams, Setting
from tasks.report.figures.scatter import error_figures
from tasks.report.published import Published, PublishedFigure, dataset_of, parse, read_published
from tasks.report.results import Study, read_study
from tasks.report.tables.literature import (
    comparison_table,
    figure_text,
    image_set_notes,
    published_tables,
    published_text,
)


@pytest.fixture(scope="module")
def published(checkout: Path) -> Published:
    return read_published(checkout / "conf" / "published.yaml")


def row(**figures: object) -> dict[str, object]:
    return {
        "marks": {"V": "read", "M": "remembered"},
        "sources": {"paper": "a paper"},
        "models": [{"table": "cifar", "model": "a model", "source": "paper", **figures}],
    }


def test_the_readme_row_of_condensenet_86(published: Published) -> None:
    model = published.match(presets["condensenet-86"], "cifar10")
    assert model is not None
    assert published_text(model, "cifar10_error_pct") == "5.06; 5.00 [M]"
    assert published_text(model, "cifar100_error_pct") == "23.64"
    assert published_text(model, "paper_flops") == "65.8 M"
    assert published_text(model, "params") == "0.52 M"


def test_a_network_is_matched_by_what_it_is_and_not_by_the_settings_name(published: Published) -> None:
    cifar100 = dataclasses.replace(presets["condensenet-86"], num_classes=100, dropout=0.1)
    assert published.match(cifar100, "cifar100") is published.match(presets["condensenet-86"], "cifar10")
    other = dataclasses.replace(presets["condensenet-86"], condensation_factor=2)
    assert published.match(other, "cifar10") is None
    assert published.match(presets["condensenet-74-g4"], "imagenet") is not None
    assert published.match(presets["condensenet-86"], "imagenet") is None
    assert published.match(presets["condensenet-98"], "cifar100") is None  # published on CIFAR-10 alone
    assert published.match(presets["condensenet-86"], None) is None


def test_what_was_not_read_at_its_source_carries_its_mark(published: Published) -> None:
    assert figure_text(PublishedFigure(24.08, "M"), "cifar100_error_pct") == "24.08 [M]"
    assert figure_text(PublishedFigure(24.08, "V"), "cifar100_error_pct") == "24.08"
    marks = {figure.mark for model in published.models for figures in model.figures.values() for figure in figures}
    assert marks == {"V", "M"}


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"params": 1.0}, "params=1.0 is not allowed: a value and one of the marks V, M"),
        ({"params": "1.0 X"}, "params='1.0 X' is not allowed"),
        ({"parameters": "1.0 V"}, "unknown key parameters"),
        ({"source": "hearsay"}, "source='hearsay' is not allowed: paper"),
        ({"preset": "condensenet-1"}, "preset='condensenet-1' is not allowed"),
    ],
)
def test_a_figure_without_a_mark_or_source_is_refused(figures: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="a model") as error:
        parse(row(**figures))
    assert message in str(error.value)


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    with pytest.raises(UserError, match="is missing"):
        read_published(path)
    path.write_text("marks: [", encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_published(path)
    assert "\n" not in str(error.value)


def test_the_data_set_follows_from_the_source_or_the_start_of_the_studys_name(checkout: Path) -> None:
    params = digits(checkout)
    assert dataset_of(params) is None
    cifar = dataclasses.replace(params, study="groups", data=DataParams(source="cifar10"))
    assert dataset_of(cifar) == "cifar10"
    parquet = DataParams(source="parquet", path="images")
    assert dataset_of(dataclasses.replace(params, study="imagenet-short", data=parquet)) == "imagenet"
    assert dataset_of(dataclasses.replace(params, study="flowers", data=parquet)) is None


def test_a_note_says_that_the_images_are_not_the_published_ones(checkout: Path) -> None:
    params = dataclasses.replace(digits(checkout), data=DataParams(source="parquet", path="images"))
    study = Study(params=params, manifest={"splits": {"test": 5}}, yardstick=None, results=[])
    first, second = image_set_notes(study, "cifar10")
    assert first == "Not the same test images: measured on 5, published on 10,000."
    assert "original pixels" in second
    all_images = dataclasses.replace(study, manifest={"splits": {"test": 50_000}})
    assert image_set_notes(all_images, "imagenet") == []


@pytest.fixture
def cifar_study(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """CondenseNet-86, which was published, and the same network with another condensation factor, which was not."""
    params, model = digits(checkout), presets["condensenet-86"]
    train = next(iter(params.settings.values())).train
    models = {"c86": model, "other": dataclasses.replace(model, condensation_factor=2)}
    settings = {name: Setting(name=name, model=model, train=train) for name, model in models.items()}
    params = dataclasses.replace(params, study="cifar10", data=DataParams(source="cifar10"), settings=settings)
    monkeypatch.chdir(tmp_path)
    write_study(params)
    return read_study(params)


def test_measured_and_published_errors_of_a_network_stand_side_by_side(
    cifar_study: Study, published: Published
) -> None:
    table = comparison_table(cifar_study, published)
    assert table is not None
    heads = [(column.title, column.unit, column.is_published) for column in table.columns[2:4]]
    assert heads == [("test error", "measured here", False), ("test error", "published", True)]
    texts = {row[0].text: [cell.text for cell in row[1:4]] for row in table.rows}
    assert texts == {"c86": ["CondenseNet-86", "2.50", "5.06; 5.00 [M]"], "other": ["–", "2.78", "–"]}


def test_only_the_published_networks_that_were_trained_have_a_measured_error(
    cifar_study: Study, published: Published
) -> None:
    table = published_tables(cifar_study, published)[0]
    column = [c.title for c in table.columns].index("CIFAR-10 error") + 1
    assert table.columns[column].unit == "measured here"
    measured = {row[0].text: (row[column].text, row[column].detail) for row in table.rows}
    assert measured.pop("CondenseNet-86") == ("2.50", "c86")
    assert set(measured.values()) == {("not run", "")}


def test_the_published_error_is_a_hollow_mark(cifar_study: Study, published: Published) -> None:
    (axes,) = error_figures(cifar_study, published)[0].figure.axes
    hollow = [line.get_ydata()[0] for line in axes.lines if line.get_color() == "none"]
    assert hollow == [5.06]
