"""docs/RESULTS.md matches the result files, and every kind of table is checked against one written by hand."""

from __future__ import annotations

import markdown_tables
import pytest

from benchmarks import results
from benchmarks.pages import speed_tables
from benchmarks.pages.markdown import NOT_MEASURED, rows_of
from benchmarks.reporting import start

TWO = "text\n<!-- table a -->\n\nmade a\n<!-- end -->\nmore\n<!-- table b -->\n\nmade b\n<!-- end -->\nthe rest\n"
TABLES = {"a": lambda _: "made a", "b": lambda _: "made b"}


@pytest.mark.parametrize("path", results.PAGES, ids=lambda path: path.name)
def test_a_page_is_up_to_date_and_has_all_its_tables(path):
    assert results.rendered(path, results.PAGES[path], results.read(results.FOLDER)) == path.read_bytes()


@pytest.fixture(scope="module")
def drawn():
    return results.draw(results.read(results.FOLDER))


@pytest.fixture
def page(tmp_path, monkeypatch, drawn):
    """A page that is up to date, and a picture."""
    pages = {tmp_path / "A.md": {}, tmp_path / "B.md": TABLES}
    for path, text in zip(pages, ("as it is\n", TWO), strict=True):
        path.write_text(text)
    monkeypatch.setattr(results, "PAGES", pages)
    monkeypatch.setattr(results, "PICTURE", tmp_path / "picture.svg")
    results.PICTURE.write_bytes(drawn)
    return tmp_path / "B.md"


def run(monkeypatch, *arguments):
    """What the script says as it ends: nothing, or one line."""
    monkeypatch.setattr("sys.argv", ["results", *arguments])
    try:
        start(results.main)
    except SystemExit as end:
        return end.code
    return ""


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("B.md", TWO.replace("made b", "typed").encode()),
        ("B.md", TWO.replace("\n", "\r\n").encode()),
        ("picture.svg", b""),
        ("picture.svg", None),
    ],
)
def test_check_writes_nothing_and_names_what_is_out_of_date(page, monkeypatch, name, content):
    before = times(page.parent)
    assert run(monkeypatch, "--check") == run(monkeypatch) == ""
    assert times(page.parent) == before  # nothing was out of date
    path = page.parent / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    before = times(page.parent)
    assert f"out of date with benchmarks/results: {name};" in run(monkeypatch, "--check")
    assert times(page.parent) == before
    assert run(monkeypatch) == run(monkeypatch, "--check") == ""
    assert page.read_bytes() == TWO.encode()


START_A, START_B, END = "<!-- table a -->", "<!-- table b -->", "<!-- end -->"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO[: TWO.rindex(END)] + "<!-- ende -->\n", f"{START_B} has no {END} in a line of its own after it"),
        (TWO.replace(END, "<!-- End -->"), f"{START_A} has no {END} in a line of its own before {START_B} in line 7"),
        (TWO.replace(END, "", 1), f"{START_A} has no {END} in a line of its own before {START_B} in line 7"),
        (TWO.replace(START_A, f"`{START_A}`"), f"{END} in line 5 ends no table"),
        (TWO.replace(START_A, f"{START_A} "), f"{END} in line 5 ends no table"),
        (TWO.replace(START_A, f"`{START_A}`").replace(END, "", 1), f"{START_A} is missing in a line of its own"),
        (TWO.replace(END, f"`{END}`", 1), f"{START_A} has no {END}"),
        (TWO + END + "\n", f"{END} in line 12 ends no table"),
        (TWO.replace("table b", "table c"), "<!-- table c --> in line 7 is no table of this page: a, b"),
        (TWO.replace("table b", "table a"), f"{START_A} in line 7 is there twice"),
        ("", f"{START_A} is missing"),
    ],
)
def test_a_marker_that_is_wrong_is_named_and_nothing_is_written(page, monkeypatch, text, message):
    page.write_text(text)
    results.PICTURE.unlink()  # would be written
    for arguments in ((), ("--check",)):
        assert run(monkeypatch, *arguments).startswith(f"error: B.md: {message}")
    assert page.read_text() == text
    assert not results.PICTURE.exists()


def test_a_broken_file_of_rows_is_named_and_nothing_is_written(page, monkeypatch, tmp_path):
    (tmp_path / "rows").mkdir()
    monkeypatch.setattr(results, "FOLDER", tmp_path / "rows")
    (tmp_path / "rows" / "fidelity.json").write_text("[{")
    page.write_text(TWO.replace("made", "typed"))
    assert run(monkeypatch).startswith(f"error: {tmp_path}/rows/fidelity.json has no rows of a table: ")
    assert "typed" in page.read_text()


def test_a_script_has_files_with_suffixes_and_a_study_has_one_file():
    names = (
        "train_throughput",
        "train_throughput-avx2",
        "train_throughputs",
        "study-few",
        "study-few-copy",
        "study-fewer",
    )
    files = {name: [{"file": name}] for name in names}
    assert [row["file"] for row in rows_of(files, "train_throughput")] == ["train_throughput", "train_throughput-avx2"]
    assert [row["file"] for row in rows_of(files, "study-few")] == ["study-few"]
    assert rows_of(files, "study-f") == []


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
    text = speed_tables.throughput({"train_throughput-cpu": [row]})
    assert text.splitlines()[-1] == "train_throughput-cpu.json: a CPU; PyTorch 2.0; batch 64."
    (line,) = markdown_tables.rows(text)
    assert {"a CPU", "condensenet-86", "fp32, compile none", "schedule", "1,234", "20", "61.60", "1.50", "AVX2"} <= set(
        line.values()
    )
    assert NOT_MEASURED in speed_tables.throughput({"ray_overhead": [row]})
