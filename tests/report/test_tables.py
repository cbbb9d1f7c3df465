"""The paper's tables: published beside counted, and latencies with the networks that were timed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tasks.params import TablesParams
from tasks.report.published import Published, parse, read_published
from tasks.tables.content import cost_tables, latency_table
from tasks.tables.cost import cost_rows
from tasks.tables.markdown import render
from tasks.tables.terminal import print_latency

CONDENSENET_50 = {"table": "cifar", "model": "CondenseNet-50", "preset": "condensenet-50", "source": "paper"}
FACTS = {
    "hardware": {"cpu": "A processor", "architecture": "x86_64", "cores": 2},
    "versions": {"onnxruntime": "1.2.3"},
    "protocol": {"runs": 50, "input_size": [3, 224, 224]},
    "rows": [
        {"model": model, "form": form, "macs": macs, "median_ms": ms, "p10_ms": 0.9 * ms, "p90_ms": 1.1 * ms}
        | {"ratio": ms / 8, "ratio_p10": low * ms / 8, "ratio_p90": high * ms / 8}
        for model, form, macs, ms, low, high in (
            ("mobilenet_v1", "plain", 569_000_000, 8.0, 1, 1),
            ("condensenet-74-g8", "plain", 261_500_000, 24.0, 0.9, 1.1),
            ("condensenet-74-g8", "native", 261_500_000, 6.0, 0.9, 1.1),
        )
    ],
}


@pytest.fixture
def published(checkout: Path) -> Published:
    return read_published(checkout / "conf" / "published.yaml")


def published_as(**figures: object) -> Published:
    return parse(
        {
            "sources": {"paper": "a paper"},
            "models": [{**CONDENSENET_50, **figures}, {**CONDENSENET_50, "preset": None, "model": "of others"}],
        }
    )


def test_a_published_count_stands_beside_what_is_counted_and_by_how_much_they_differ():
    rows = cost_rows(published_as(paper_flops=20e6))  # counted by the authors' rule: 28,641,834 and 216,506
    assert [(row["network"], row["count"], row["counted"]) for row in rows] == [
        ("CondenseNet-50", "paper_flops", 28_641_834),
        ("CondenseNet-50", "params", 216_506),
    ]
    assert [(row["published"], row["difference_pct"]) for row in rows] == [(20e6, 43.2092), (None, None)]
    (table,) = [table for table in cost_tables(rows) if table.rows]
    assert [cell.text for cell in table.rows[0]] == [
        *("CondenseNet-50", "20 M", "28,641,834", "+43.2%", "–", "216,506", "–"),
    ]


def test_the_counted_figures_of_the_paper_agree_with_the_published_ones(published: Published):
    own = [row for row in cost_rows(published) if row["published"] is not None]
    assert len(own) == 28
    assert all(abs(row["difference_pct"]) < 4 for row in own)  # 769,162 parameters are published as 0.8M
    flops = [row["difference_pct"] for row in own if row["count"] == "paper_flops"]
    assert max(map(abs, flops)) < 0.16


def test_the_paper_s_ratio_stands_once_beside_a_network_and_apart_from_the_measured_one(published: Published):
    table = latency_table(published, FACTS)
    assert [cell.text for cell in table.rows[0]] == ["mobilenet_v1", "plain", "569 M", "8.00", "1.00", "1"]
    assert [cell.text for cell in table.rows[1]][4:] == ["3.00", "0.505"]
    assert [cell.text for cell in table.rows[2]][4:] == ["0.75", "–"]
    assert table.rows[1][4].detail == "2.70–3.30"
    assert [column.is_published for column in table.columns] == [False] * 5 + [True]
    assert "A processor" in " ".join(table.notes)


def test_every_row_reaches_markdown_and_the_terminal(published: Published):
    text = render(published, cost_rows(published_as(paper_flops=28.6e6)), FACTS)
    assert "| CondenseNet-50 | 28.6 M | 28,641,834 | +0.1% |" in text
    printed = io.StringIO()
    print_latency(FACTS, printed)
    assert "6.00 (5.40–6.60)" in printed.getvalue()
    assert "condensenet-74-g8" in text
    assert max(map(len, printed.getvalue().splitlines())) <= 110
    assert "FLOPs and parameters: out/tables/tables.md" in printed.getvalue()
    assert "Other work ran beside" not in printed.getvalue() + text


def test_figures_of_a_busy_machine_say_so_wherever_they_are_shown(published: Published):
    busy = {**FACTS, "rows": [{**row, "ratio_p90": 3 * row["ratio"]} for row in FACTS["rows"]]}
    printed = io.StringIO()
    print_latency(busy, printed)
    for text in (printed.getvalue(), render(published, [], busy)):
        assert "Other work ran beside, as the spread of the ratios shows" in text


def test_without_latencies_nothing_is_printed():
    printed = io.StringIO()
    print_latency({}, printed)
    assert printed.getvalue() == ""


@pytest.mark.parametrize("networks", [("resnet19",), ("mobilenet_v1",)])
def test_a_network_that_is_not_here_is_refused(networks: tuple[str, ...]):
    with pytest.raises(ValueError, match="networks="):
        TablesParams(networks=networks)
