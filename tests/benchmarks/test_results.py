"""docs/RESULTS.md matches the result files, and every kind of table is checked against one written by hand."""

from __future__ import annotations

from dataclasses import asdict

import markdown_tables
import pytest

from benchmarks import results, results_tables
from benchmarks.results_markdown import NOT_MEASURED
from condensenet import presets


def test_the_page_is_up_to_date():
    page = results.PAGE.read_text(encoding="utf-8")
    assert results.render(page, results.read(results.FOLDER)) == page
    assert all(f"<!-- table {name} -->" in page for name in results_tables.TABLES)


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


def test_a_trained_error_stands_beside_the_published_one_and_only_a_whole_training_does():
    config = results_tables.as_json(presets["condensenet-86"])
    assert config["block_depths"] == [14, 14, 14] == list(asdict(presets["condensenet-86"])["block_depths"])
    row = {"side": "ours", "seed": "mean", "error_pct": 5.432, "epochs": 300, "model": config}
    lines = {line["Network"]: line for line in markdown_tables.rows(results_tables.cifar({"fidelity": [row]}))}
    measured = "Measured here (CIFAR-10 as JPEG), %"
    ours = lines["CondenseNet-86"]
    assert (ours["Published FLOPs"], ours["Counted here"]) == ("65.8M", "65.8M")
    assert (ours["Published params"], ours["Counted here (2)"]) == ("0.52M", "0.52M")
    assert (ours["Published CIFAR-10 error, %"], ours[measured]) == ("5.06", "5.43")
    other = lines["CondenseNet-50"]
    assert (other["Published CIFAR-10 error, %"], other[measured]) == ("6.22", NOT_MEASURED)
    short = results_tables.cifar({"fidelity": [{**row, "epochs": 10}]})
    assert "5.43" not in short


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        results.render("<!-- table nothing -->\n<!-- end -->", {})
