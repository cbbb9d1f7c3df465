"""The latency table: a complete run on tiny networks, rows checked by hand, and missing runtimes reported."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import markdown_tables
import numpy as np
import pytest

from benchmarks import latency_plans, latency_table, peak
from benchmarks.pages import speed_tables
from condensenet import ModelConfig, presets
from condensenet.deploy.lowering import Plan, portable_plan
from condensenet.models.layers import CondensedGroupConv
from tasks.tables import network_files
from tasks.tables.network_files import File

pytest.importorskip("onnxruntime")
TINY = {
    name: ModelConfig(block_depths=(1, 1), growth_rates=(8, 8), groups_1x1=g, condensation_factor=g, stem="imagenet")
    for name, g in (("condensenet-74-g4", 4), ("condensenet-74-g8", 8))
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in TINY.items():
        monkeypatch.setitem(presets, name, config)
    monkeypatch.setattr(latency_table, "SIZE", 32)
    monkeypatch.setattr(peak, "SIZE", 64)
    monkeypatch.setattr(peak, "MACS", 64**3)


def run(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> list[dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["latency_table.py", "--quick", "--json", str(path), *arguments])
    monkeypatch.setattr(latency_table, "QUICK_S", float("inf"))  # a busy machine must not cut the rounds short
    latency_table.main()
    return json.loads(path.read_text())


@pytest.mark.usefixtures("tiny")
def test_quick_writes_a_row_a_network_and_form(tmp_path, monkeypatch, capsys):
    rows = run(monkeypatch, tmp_path / "rows.json", "--rounds", "50")
    made = [form for form in network_files.FORMS if network_files.is_available(form)]
    assert {"plain", "int8"} <= set(made)
    expected = [("mobilenet_v1", "plain"), *((name, form) for name in TINY for form in made)]
    assert [(row["model"], row["form"]) for row in rows] == expected
    for row in rows:
        assert (row["threads"], row["batch"], row["rounds"]) == (1, 1, 50)
        assert row["macs_per_s"] == pytest.approx(1000 * row["macs"] / row["median_ms"])
        assert row["share_of_peak"] == pytest.approx(row["macs_per_s"] / row["peak_macs_per_s"])
        assert row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
    assert rows[0]["ratio_to_mobilenet_v1"] == pytest.approx(1, abs=0.05)
    assert all(row["macs"] < rows[0]["macs"] for row in rows[1:])
    printed = capsys.readouterr().out
    assert "plan: portable" in printed


@pytest.mark.usefixtures("tiny")
def test_every_network_takes_the_plan_that_was_made_for_it(tmp_path):
    models = {name: network_files.converted(name) for name in TINY}
    saved = [portable_plan(model, 32).save(tmp_path / f"{name}.json") for name, model in models.items()]
    plans = latency_plans.Plans([str(path) for path in saved])
    for path, model in zip(saved, models.values(), strict=True):
        assert plans.of(model, 32) == Plan.load(path)
    with pytest.raises(ValueError, match="for another network"):
        latency_plans.Plans([str(saved[0])]).of(models["condensenet-74-g8"], 32)


def test_a_row_by_hand():
    file = File(model="m", form="plain", path=Path("m.onnx"), macs=3_000_000)
    row = latency_table.row_of(file, 2, 1, np.array([0.002, 0.003, 0.004]), np.array([0.001, 0.001, 0.004]), 4e9)
    assert (row["median_ms"], row["ratio_to_mobilenet_v1"]) == pytest.approx((3.0, 2.0))  # ratios 2, 3 and 1
    assert (row["macs_per_s"], row["share_of_peak"]) == pytest.approx((1e9, 0.25))
    batch = latency_table.row_of(file, 2, 2, np.array([0.003]), np.array([0.001]), 4e9)
    assert (batch["median_ms"], batch["macs_per_s"]) == pytest.approx((3.0, 2e9))  # 2 images of 3 million


def test_mobilenets_own_row_covers_all_its_runs():
    round_medians, seconds = latency_table.mobilenet_times(
        [np.array([1.0, 4.0]), np.array([2.0, 5.0]), np.array([3.0, 9.0])]
    )
    assert seconds.tolist() == [1, 4, 2, 5, 3, 9]
    assert round_medians.tolist() == [2, 5] * 3
    assert np.median(seconds / round_medians) == 1


def test_rounds_take_turns_after_a_warm_up_and_end_in_time():
    order: list[str] = []
    mobilenet, a, b, product = (lambda name=name: order.append(name) for name in ("mobilenet", "a", "b", "product"))
    seconds, pairs = latency_table.in_rounds(product, [(mobilenet, a), (mobilenet, b)], 3, float("inf"))
    assert order == ["product", "a", "mobilenet", "a", "b", "mobilenet", "b"] * (latency_table.WARM_UP + 3)
    assert [len(seconds), *(len(own) for pair in pairs for own in pair)] == [3] * 5
    assert len(latency_table.in_rounds(product, [(mobilenet, a)], 1000, time.monotonic())[0]) == 1


def test_the_condensenets_are_condensed_and_converted():
    model = network_files.converted("condensenet-86")
    assert model.form == "grouped"
    layer = next(module for module in model.modules() if isinstance(module, CondensedGroupConv))
    assert sorted(layer.index.tolist()) != list(range(len(layer.index)))  # chosen by weights, not in order


def test_the_fastest_product_is_taken():
    def slow() -> None:
        time.sleep(0.002)

    assert peak.fastest({"slow": slow, "fast": lambda: None})[0] == "fast"


def test_all_products_are_the_same_product(tmp_path, monkeypatch):
    monkeypatch.setattr(peak, "SIZE", 16)
    first, *others = (np.asarray(runner()).reshape(16, 16) for runner in peak.products(1, tmp_path).values())
    assert others
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--rounds", "49"], "--rounds 49 is not allowed: at least 50"),
        (["--plan", "fastest"], "--plan fastest is not allowed: portable, measured, or plan files"),
        (["--plan", "portable", "measured"], "--plan portable is not allowed"),
    ],
)
def test_what_cannot_be_is_refused_before_work_starts(monkeypatch, given, message):
    monkeypatch.setattr(sys, "argv", ["latency_table.py", *given])
    with pytest.raises(ValueError, match=message):
        latency_table.arguments()


def test_measured_and_published_ratios_have_columns_of_their_own():
    row = {
        "model": "condensenet-74-g8",
        "form": "lowered",
        "threads": 1,
        "batch": 1,
        "median_ms": 9.876,
        "p10_ms": 9.5,
        "p90_ms": 10.5,
        "ratio_to_mobilenet_v1": 1.254,
        "ratio_p10": 1.2,
        "ratio_p90": 1.3,
        "macs": 261_545_792,
        "macs_per_s": 26.5e9,
        "share_of_peak": 0.265,
        "peak_macs_per_s": 1e11,
        "peak_by": "NumPy",
        "rounds": 100,
        "plan": "portable",
        "device": "a CPU, 2 cores",
        "onnxruntime": "1.31",
    }
    other = {**row, "model": "mobilenet_v2", "share_of_peak": 0.5}
    two = {**row, "threads": 2}
    text = speed_tables.latency({"latency_table": [row, other, two]})
    first, second, third = markdown_tables.rows(text)
    published = "Published ratio, another machine"
    assert first["Ratio to MobileNetV1 (p10 to p90)"] == "1.25 (1.20 to 1.30)"
    assert (first["Million MACs"], first["GMAC/s"], first["Share of the peak"]) == ("261.5", "26.5", "26%")
    assert first[published] == "0.505"
    assert "9.88 (9.50 to 10.50)" in first.values()
    assert (second["Share of the peak"], second[published]) == ("50%", "–")  # never one that nobody published
    assert third[published] == "–"  # nor one core's beside two threads
    note = text.splitlines()[-1]
    assert "peak on 1 thread: 100 GMAC/s (NumPy); peak on 2 threads: 100 GMAC/s (NumPy)" in note
