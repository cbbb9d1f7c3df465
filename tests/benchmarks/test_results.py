"""docs/RESULTS.md matches the result files, and every kind of table is checked against one written by hand."""

from __future__ import annotations

import markdown_tables
import pytest

from benchmarks import results, results_tables
from benchmarks.results_markdown import NOT_MEASURED


@pytest.mark.parametrize("path", results.PAGES, ids=lambda path: path.name)
def test_a_page_is_up_to_date_and_has_all_its_tables(path):
    page = path.read_text(encoding="utf-8")
    assert results.render(page, results.read(results.FOLDER)) == page
    assert all(f"<!-- table {name} -->" in page for name in results.PAGES[path])


def test_check_writes_nothing_and_names_the_page_that_is_out_of_date(tmp_path, monkeypatch):
    page, other = tmp_path / "A.md", tmp_path / "B.md"
    page.write_text("as it is\n")
    other.write_text("<!-- table cpus -->\ntyped by hand\n<!-- end -->\n")
    monkeypatch.setattr(results, "PAGES", {page: {}, other: {}})
    monkeypatch.setattr(results, "TABLES", {"cpus": lambda _: "made"})
    picture = tmp_path / "picture.svg"
    monkeypatch.setattr(results, "PICTURE", picture)
    monkeypatch.setattr("sys.argv", ["results", "--check"])
    with pytest.raises(SystemExit, match=r"B\.md does not match"):
        results.main()
    other.write_text("<!-- table cpus -->\n\nmade\n<!-- end -->\n")
    for missing_or_empty in (None, b""):
        if missing_or_empty is not None:
            picture.write_bytes(missing_or_empty)
        with pytest.raises(SystemExit, match=r"picture\.svg does not match"):
            results.main()
    picture.write_bytes(results.draw(results.read(results.FOLDER)))
    before = [path.stat().st_mtime_ns for path in (page, other, picture)]
    results.main()
    assert [path.stat().st_mtime_ns for path in (page, other, picture)] == before
    assert sorted(tmp_path.iterdir()) == [page, other, picture]


def test_throughput_by_hand():
    row = {
        "device": "a CPU",
        "model": "condensenet-86",
        "phase": "schedule",
        "batch_size": 64,
        "precision": "fp32",
        "compile": "none",
        "ours_images_per_s": 1234.5,
        "authors_images_per_s": 20.04,
        "ratio": 61.6,
        "kernels_ratio": 1.5,
        "instruction_set": "AVX2",
        "torch": "2.0",
    }
    text = results_tables.throughput({"train_throughput-cpu": [row]})
    assert text.splitlines()[-1] == "train_throughput-cpu.json: a CPU; PyTorch 2.0; batch 64."
    (line,) = markdown_tables.rows(text)
    assert {"a CPU", "condensenet-86", "fp32, compile none", "schedule", "1,234", "20", "61.60", "1.50", "AVX2"} <= set(
        line.values()
    )
    assert NOT_MEASURED in results_tables.throughput({"ray_overhead": [row]})


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        results.render("<!-- table nothing -->\n<!-- end -->", {})
