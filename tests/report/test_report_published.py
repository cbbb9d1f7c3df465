"""Published figures: each has a source, and none can be mistaken for a measured one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report_outputs import digits, write_study

from condensenet.models.presets import presets
from tasks.errors import UserError
from tasks.params import DataParams, Setting
from tasks.report.figures.scatter import error_figures
from tasks.report.published import Published, dataset_of, parse, read_published
from tasks.report.results import Study, read_study
from tasks.report.tables.literature import comparison_table, image_set_notes, published_text
from tasks.report.tables.sections import report_tables


@pytest.fixture(scope="module")
def published(checkout: Path) -> Published:
    return read_published(checkout / "conf" / "published.yaml")


def row(**figures: object) -> dict[str, object]:
    return {
        "sources": {"paper": "a paper"},
        "models": [{"table": "cifar", "model": "a model", "source": "paper", **figures}],
    }


def test_the_readme_row_of_condensenet_86(published: Published) -> None:
    model = published.match(presets["condensenet-86"], "cifar10")
    assert model is not None
    assert published_text(model, "cifar10_error_pct") == "5.06"
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


def test_every_row_has_figures_and_every_source_a_row(published: Published) -> None:
    assert [model.model for model in published.models if not model.figures] == []
    assert {model.source for model in published.models} == set(published.sources)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"params": "1.0 M"}, "params='1.0 M' is not allowed: a positive number"),
        ({"params": -1.0}, "params=-1.0 is not allowed"),
        ({"params": True}, "params=True is not allowed"),
        ({"params": 0}, "a model: params=0 is not allowed"),
        ({"params": float("inf")}, "a model: params=inf is not allowed"),
        ({"params": float("nan")}, "a model: params=nan is not allowed"),
        ({"params": 10**400}, "a model: params=<an integer of 1329 bits> is not allowed"),
        ({"cifar10_error_pct": 100.5}, "a model: cifar10_error_pct=100.5 is not allowed: more than 0, at most 100"),
        ({"cifar10_error_pct": -1}, "a model: cifar10_error_pct=-1 is not allowed"),
        ({"cifar10_error_pct": 0}, "a model: cifar10_error_pct=0 is not allowed"),
        ({"table": None}, "a model: table=None is not allowed: cifar, imagenet, arm"),
        ({"parameters": 1.0}, "unknown key parameters"),
        ({"source": "hearsay"}, "source='hearsay' is not allowed: paper"),
        ({"preset": "condensenet-1"}, "preset='condensenet-1' is not allowed"),
    ],
)
def test_a_figure_that_is_no_number_or_has_no_source_is_refused(figures: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="a model") as error:
        parse(row(**figures))
    assert message in str(error.value)


def test_an_error_of_all_images_is_allowed() -> None:
    assert parse(row(cifar10_error_pct=100)).models[0].figures == {"cifar10_error_pct": 100}


@pytest.mark.parametrize("nameless", [{}, "a model", {"model": ["a model"]}])
def test_a_row_without_a_name_is_counted(nameless: object) -> None:
    named = {"table": "cifar", "model": "a model", "source": "paper"}
    with pytest.raises(ValueError, match="row 2 of models has no name"):
        parse({"sources": {"paper": "a paper"}, "models": [named, nameless]})


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    with pytest.raises(UserError, match="is missing"):
        read_published(path)
    path.write_text("sources: [", encoding="utf-8")
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
    assert texts == {"c86": ["CondenseNet-86", "2.50", "5.06"], "other": ["–", "2.78", "–"]}


def test_a_report_says_which_source_its_published_figures_are_from(cifar_study: Study, published: Published) -> None:
    table = comparison_table(cifar_study, published)
    assert table is not None
    assert [note for note in table.notes if note.startswith("Published in ")] == [
        "Published in the README of the authors' code, ShichenLiu/CondenseNet on GitHub."
    ]


def test_a_report_shows_published_figures_of_its_own_networks_alone(cifar_study: Study, published: Published) -> None:
    tables = [table for section in report_tables(cifar_study, published).values() for table in section]
    texts = {cell.text for table in tables for row in table.rows for cell in row}
    others = {model.model for model in published.models if model.preset != "condensenet-86"}
    assert "CondenseNet-86" in texts
    assert texts & others == set()


def test_nothing_published_is_in_a_report_on_the_digits(
    checkout: Path, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = digits(checkout)
    write_study(params)
    for table in (table for section in report_tables(read_study(params), published).values() for table in section):
        for index, column in enumerate(table.columns):
            assert not column.is_published or {row[index].text for row in table.rows} == {"–"}, table.caption


def test_the_papers_ratio_of_latencies_stands_beside_ours(
    checkout: Path, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = digits(checkout)
    train = next(iter(params.settings.values())).train
    setting = Setting(name="g8", model=presets["condensenet-74-g8"], train=train)
    data = DataParams(source="parquet", path="images")
    params = dataclasses.replace(params, study="imagenet", data=data, settings={"g8": setting})
    monkeypatch.chdir(tmp_path)
    write_study(params)
    table = comparison_table(read_study(params), published)
    assert table is not None
    assert [(column.title, column.is_published) for column in table.columns[-2:]] == [
        ("ratio to MobileNetV1", False),
        ("ratio to MobileNetV1", True),
    ]
    assert [cell.text for cell in table.rows[0]][-2:] == ["0.40", "0.51"]  # 0.99 s and 1.96 s
    assert any("Jetson TX2" in note for note in table.notes)


def test_the_published_error_is_a_hollow_mark(cifar_study: Study, published: Published) -> None:
    (axes,) = error_figures(cifar_study, published)[0].figure.axes
    hollow = [line.get_ydata()[0] for line in axes.lines if line.get_color() == "none"]
    assert hollow == [5.06]
