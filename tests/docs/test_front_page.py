"""README.md and its neighbours say what is so: links, badges, the picture, the citation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import matplotlib
import pytest
from ruamel.yaml import YAML

from benchmarks import results
from benchmarks.pages import front_tables
from benchmarks.pages.pictures import is_same
from condensenet import __version__

DOCS = ("FAQ", "LIBRARY", "TUTORIAL", "OPERATORS", "PAPER", "RESULTS")
PAGES = ["README.md", "CONTRIBUTING.md", "release/README.md", *(f"docs/{name}.md" for name in DOCS)]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def drawn() -> bytes:
    return front_tables.draw(results.read(results.FOLDER))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(checkout: Path, page: str) -> None:
    here = checkout / page
    for target in LINK.findall(here.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, heading = target.partition("#")
        found = (here.parent / file).resolve() if file else here
        assert found.exists(), target
        assert not heading or heading in headings(found), target


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_badges_are_true(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    page = (checkout / "README.md").read_text(encoding="utf-8")
    assert project["requires-python"] == ">=3.11,<3.13"
    assert "Python 3.11 and 3.12" in page
    assert "torch>=2.11,<2.16" in project["dependencies"]
    assert "PyTorch 2.11 to 2.15" in page
    assert project["license"] == "MIT"


def test_the_picture_is_up_to_date(checkout: Path, drawn: bytes) -> None:
    assert is_same(drawn, (checkout / "docs/tradeoff.svg").read_bytes())


def test_a_picture_drawn_with_other_fonts_is_the_same(drawn: bytes) -> None:
    with matplotlib.rc_context({"font.family": "monospace", "font.monospace": "DejaVu Sans Mono"}):
        other = front_tables.draw(results.read(results.FOLDER))
    (frame, *_), (other_frame, *_) = (re.findall(rb"<rect .*?/>", picture) for picture in (drawn, other))
    assert frame != other_frame  # the axes are smaller
    assert is_same(drawn, other)


@pytest.mark.parametrize(("share", "rows_changed"), [(0.5, None), (1.02, 1)])
def test_other_latencies_make_another_picture(drawn: bytes, share: float, rows_changed: int | None) -> None:
    """Half of all leaves every point at its place between the edges, and moves the ticks."""
    files = results.read(results.FOLDER)
    rows = files["latency_table"]
    changed = [{**row, "median_ms": share * row["median_ms"]} for row in rows[:rows_changed]]
    files["latency_table"] = changed + rows[len(changed) :]
    assert not is_same(drawn, front_tables.draw(files))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"ms on one core", b"s on one core"),
        (b"fill: #0072b2", b"fill: #737373"),
        (b'x="5', b'x="4'),
        (b"<use ", b"<gone "),
        (b'x="5', b'x="?'),
        (b"</svg>", b""),
    ],
)
def test_an_edited_picture_is_another(drawn: bytes, old: bytes, new: bytes) -> None:
    assert old in drawn
    assert not is_same(drawn, drawn.replace(old, new))
    assert not is_same(drawn, b"")


def test_the_front_table_by_hand() -> None:
    row = {
        "threads": 1,
        "batch": 1,
        "device": "a CPU",
        "onnxruntime": "1.0",
        "rounds": 60,
        "macs": 5e8,
    }
    rows = [
        {**row, "model": "mobilenet_v1", "form": "plain", "median_ms": 10.0, "ratio_to_mobilenet_v1": 1.0},
        {**row, "model": "condensenet-74-g8", "form": "plain", "median_ms": 30.0, "ratio_to_mobilenet_v1": 3.01},
        {**row, "model": "condensenet-74-g8", "form": "native", "median_ms": 7.0, "ratio_to_mobilenet_v1": 0.7},
        {**row, "model": "condensenet-74-g8", "form": "native", "median_ms": 4.0, "threads": 2},
        {**row, "model": "condensenet-74-g8", "form": "native", "median_ms": 90.0, "batch": 16},
    ]
    lines = front_tables.front({"latency_table": rows}).splitlines()
    assert lines[2] == "| MobileNetV1 | 500M | 29.4 | 10.00 (1.00×) |  |  |"
    assert lines[3] == "| **CondenseNet-74 (G=C=8)** | **500M** | 29.0 | 30.00 (3.01×) |  | **7.00 (0.70×)** |"
    assert len(lines) == 6
    train = {"phase": "schedule", "model": "condensenet-86", "ours_images_per_s": 90.2, "authors_images_per_s": 30.4}
    train |= {"ratio": 2.967, "device": "a CPU", "instruction_set": "AVX-512", "batch_size": 64}
    limited = {**train, "instruction_set": "AVX2, limited to them"}
    on_gpu = {**train, "instruction_set": None, "device": "a GPU"}
    others = {"train_throughput-h100": [on_gpu], "train_throughput-laptop": [{**train, "device": "a laptop"}]}
    files = {"latency_table": rows, "train_throughput": [train], "train_throughput-avx2": [limited], **others}
    last = front_tables.front(files).splitlines()[-1]
    assert last.startswith("Training CondenseNet-86: 90 images/s, **3.0 times** the 30 of the authors' algorithm")
    assert "(a CPU, AVX-512, batches of 64" in last


def test_training_speed_without_kernels_is_the_quotient() -> None:
    row = {"phase": "schedule", "device": "a CPU", "instruction_set": "AVX2", "ratio": 3.0, "kernels_ratio": 2.0}
    lines = front_tables.training_speed({"train_throughput": [row, {**row, "phase": "optimization"}]}).splitlines()
    assert lines[2:] == ["| AVX2 | 3.0× | 1.5× |"]


def test_training_speed_is_that_of_one_cpu() -> None:
    """Whoever measures a GPU or another computer adds a file; README.md goes on to show the first one's."""
    row = {"phase": "schedule", "device": "a CPU", "instruction_set": "AVX-512", "ratio": 3.0}
    files = {
        "train_throughput": [row],
        "train_throughput-avx2": [{**row, "instruction_set": "AVX2, limited to them", "ratio": 2.5}],
        "train_throughput-h100": [{**row, "device": "a GPU", "instruction_set": None, "ratio": 9.0}],
        "train_throughput-laptop": [{**row, "device": "a laptop", "ratio": 4.0}],
    }
    lines = front_tables.training_speed(files).splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| AVX-512", "3.0×"],
        ["| AVX2, limited to them", "2.5×"],
    ]


def test_the_citation_names_the_paper_and_this_version(checkout: Path) -> None:
    citation = YAML(typ="safe", pure=True).load(checkout / "CITATION.cff")
    assert citation["version"] == __version__
    assert citation["license"] == "MIT"
    (paper,) = citation["references"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:1711.09224"}]
    assert [author["family-names"] for author in paper["authors"]] == ["Huang", "Liu", "van der Maaten", "Weinberger"]
