"""The whole report from the outputs of a study: the page, the Markdown file, the runs in MLflow."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_outputs import digits, write_study

from tasks import paths, tracking
from tasks.params import Params
from tasks.report import __main__ as report
from tasks.report import markdown, page
from tasks.report.markdown import escape
from tasks.report.published import Published, read_published
from tasks.report.results import read_study
from tasks.report.summary import read_table

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Page(HTMLParser):
    """Checks that a page's tags are balanced, and collects its attributes and text."""

    attributes: list[tuple[str, str, str]] = field(default_factory=list)  # tag, name, value
    text: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def published(checkout: Path) -> Published:
    return read_published(checkout / "conf" / "published.yaml")


HOSTILE = "a\nb\x1b[31m\u202ec<script>"  # a folder's name, and so a class's


def test_names_from_outside_have_no_control_characters(
    checkout: Path, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = digits(checkout)
    write_study(params)
    for name in params.settings:
        table = params.paths.setting("evaluate", name) / paths.PER_CLASS
        table.write_text(table.read_text().replace("class 0", f'"{HOSTILE}"'))
    manifest = params.paths.data / paths.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "source": {"origin": HOSTILE}}))
    study = read_study(params)
    texts = [markdown.render(study, published), page.render(study, published, defaultdict(list))]
    for text in texts:
        assert "a\\nb" in text.replace("\\\\", "\\")
        assert all(line.isprintable() for line in text.replace("\u2002", " ").splitlines())


@pytest.fixture(scope="module")
def written(checkout: Path, published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The report of a study, whose folders also hold the outputs of a setting that is no longer in force."""
    params = digits(checkout)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        write_study(params)
        for stage in ("train", "convert", "export", "evaluate", "benchmark"):
            stale = params.paths.setting(stage, "stale-setting")
            stale.mkdir(parents=True)
            (stale / paths.METRICS).write_text("not even JSON", encoding="utf-8")
        write(params, published)
        yield Path.cwd() / params.paths.report


def write(params: Params, published: Published) -> None:
    study = read_study(params)
    report.write(study, published, report.draw(study, published))


def parsed(folder: Path) -> Page:
    page = Page()
    page.feed((folder / paths.REPORT_HTML).read_text(encoding="utf-8"))
    page.close()
    assert page.open_tags == []
    return page


def test_the_page_asks_nothing_of_the_network(written: Path) -> None:
    page = parsed(written)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith(("#", "data:")), (tag, name, value[:80])
    text = (written / paths.REPORT_HTML).read_text(encoding="utf-8")
    assert re.findall(r"url\((?!#)|@import|https?:", text) == []
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) < 5000
    assert re.findall(r"fetch|XMLHttp|import|Worker|sendBeacon|WebSocket|eval|innerHTML|storage", script) == []


def test_the_page_can_be_read_aloud(written: Path) -> None:
    page = parsed(written)
    scopes = [value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")]
    text = (written / paths.REPORT_HTML).read_text(encoding="utf-8")
    assert len(scopes) == text.count("<th ")
    assert set(scopes) == {"col", "row"}
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == text.count("<svg ")
    assert any("g4-c4: 250 k MACs, 3.33%" in label for label in labels)
    assert ("html", "lang", "en") in page.attributes


def test_ids_are_unique_and_every_reference_finds_its_target(written: Path) -> None:
    page = parsed(written)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = {value[1:] for _, name, value in page.attributes if name.endswith("href") and value.startswith("#")}
    text = (written / paths.REPORT_HTML).read_text(encoding="utf-8")
    links |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert links <= set(ids)


def test_all_settings_in_force_and_no_other_are_in_every_output(written: Path) -> None:
    for name in (paths.REPORT_HTML, paths.REPORT_MD, paths.TABLE):
        text = (written / name).read_text(encoding="utf-8")
        assert all(setting in text for setting in ("g1-c1", "g2-c2", "g4-c2", "g4-c4")), name
        assert "stale" not in text


def test_a_latency_is_never_printed_alone(written: Path) -> None:
    for name in (paths.REPORT_HTML, paths.REPORT_MD):
        text = (written / name).read_text(encoding="utf-8").replace("\\_", "_")
        assert "MobileNetV1" in text
        assert "ONNX Runtime 1.31.1, Python 3.11.2; Example CPU @ 2.00GHz (x86_64), 2 cores" in text
        assert "50 timed runs after 10 for warm-up" in text


def test_provenance_is_stated(written: Path) -> None:
    text = (written / paths.REPORT_HTML).read_text(encoding="utf-8")
    assert "0123456789ab" in text  # the commit
    assert "f1" * 32 in text  # the fingerprint of the data
    assert f"{3:032x}" in text  # the last setting's execution
    assert "2026-01-02 03:04:05" in text
    assert "The test set is never used for training or model selection" in " ".join(text.split())


def test_markdown_stands_alone_and_its_tables_are_whole(written: Path) -> None:
    text = (written / paths.REPORT_MD).read_text(encoding="utf-8")
    assert "![" not in text
    assert "<img" not in text
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 7
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_the_same_outputs_give_the_same_bytes(written: Path, checkout: Path, published: Published) -> None:
    names = (paths.REPORT_HTML, paths.REPORT_MD, paths.TABLE)
    before = [(written / name).read_bytes() for name in names]
    write(digits(checkout), published)
    assert [(written / name).read_bytes() for name in names] == before


def test_what_was_not_run_says_so(
    checkout: Path, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = digits(checkout)
    monkeypatch.chdir(tmp_path)
    write_study(params, settings=["g4-c4"])
    (params.paths.setting("benchmark", "g4-c4") / paths.LATENCY).unlink()
    write(params, published)
    page = parsed(params.paths.report)
    assert "train, convert, export, evaluate, benchmark" in page.text
    assert "error-latency" not in (params.paths.report / paths.REPORT_HTML).read_text(encoding="utf-8")
    rows = {row["setting"]: row for row in read_table(params.paths.report / paths.TABLE)}
    measured = {name for name, value in rows["g1-c1"].items() if value is not None}
    assert measured == {"setting", "groups", "condensation_factor"}
    assert rows["g4-c4"]["macs"] == 1_000_000
    assert rows["g4-c4"]["latency_ms"] is None


def test_a_study_of_which_nothing_was_run_is_still_a_page(
    checkout: Path, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = digits(checkout)
    monkeypatch.chdir(tmp_path)
    write(params, published)
    text = "".join(parsed(params.paths.report).text)
    for part in ("Training", "Conversion", "Error against cost and latency", "Test error by class"):
        assert f"{part}: not run." in text
    header = (params.paths.report / paths.CURVES).read_text(encoding="utf-8")
    assert header.startswith("setting,epoch,")


def test_every_setting_with_a_run_is_completed_in_mlflow(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = digits(checkout)
    monkeypatch.chdir(tmp_path)
    write_study(params, settings=["g2-c2", "g4-c4"])
    (params.paths.setting("benchmark", "g2-c2") / paths.LATENCY).unlink()
    params.paths.form("g4-c4", paths.LOWERED).write_bytes(b"a model")
    for name in (paths.PARAMS, paths.PUBLISHED):
        name.parent.mkdir(exist_ok=True)
        name.write_bytes((checkout / name).read_bytes())
    records: list[tuple[Any, str, dict[str, Any]]] = []

    def record(run: Any, stage: str, **rest: Any) -> None:
        assert all(path.is_file() for path, _ in rest["artifacts"])
        records.append((run, stage, rest))

    studies: list[tuple[str, list[str], set[str], set[str]]] = []

    def record_study(study: str, files: Any, models: Any, metrics: Any) -> None:
        assert all(path.is_file() for path in files)
        studies.append((study, [path.name for path in files], set(models), set(metrics)))

    monkeypatch.setattr(tracking, "record", record)
    monkeypatch.setattr(tracking, "record_study", record_study)
    monkeypatch.setattr(sys, "argv", ["report"])
    report.main()
    assert [(run["setting"], stage, rest["finished"]) for run, stage, rest in records] == [
        ("g2-c2", "report", False),
        ("g4-c4", "report", True),
    ]
    last = records[1][2]
    assert last["metrics"]["macs"] == 500_000
    assert last["metrics"]["test_error_pct"] == pytest.approx(100 * 10 / 360)
    names = [path.name for path, _ in last["artifacts"]]
    assert {"report.html", "error-macs.png", "map-g4-c4.png"} <= set(names)
    assert "map-g2-c2.png" not in names
    assert "dvc.json" in names
    complete = {f"{1:032x}"}  # the execution of g4-c4; g2-c2 was not timed
    assert [(study, *sets) for study, _, *sets in studies] == [("digits", complete, complete)]
    assert studies[0][1] == ["table.csv", "report.html", "error-macs.png", "error-latency.png"]


def test_text_is_not_taken_for_markup() -> None:
    assert escape("a|b_c<d>") == "a\\|b\\_c\\<d\\>"
