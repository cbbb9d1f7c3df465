"""docs/PAPER.md: the status of a row, and the mean of several seeds, by hand."""

from __future__ import annotations

from typing import Any

import markdown_tables
import pytest

from benchmarks.pages import paper_tables
from benchmarks.pages.markdown import NOT_MEASURED
from benchmarks.pages.speed_tables import as_json
from condensenet import presets
from tasks.report.published import PublishedModel

WHOLE = {  # a training that counts
    "side": "ours",
    "seed": "mean",
    "epochs": 300,
    "data": "cifar10-jpeg",
    "train_images": 49_984,
    "test_images": 10_000,
    "batch_size": 64,
}


def run(setting: str, error_pct: float, **train: object) -> dict[str, Any]:
    seed = int(setting.partition("-seed")[2] or 0)
    return {
        "study": "cifar10-short",
        "data_fingerprint": "f",
        "setting": setting,
        "model": {"groups_1x1": 4, "condensation_factor": 2},
        "train": {"epochs": 12, "seed": seed, **train},
        "macs": 18_300_000,
        "params": 142_282,
        "test_error_pct": error_pct,
        "test_images": 10_000,
        "started_at": "2026-11-21T10:00:00",
        "curve": [[1, 0, 1.5, 60.0, 50.0, 100.0], [2, 1, 1.25, 50.0, 41.5, 50.0]],
    }


def test_the_mean_of_the_seeds_stands_with_its_standard_error():
    rows = [run("g4-c1", 10.0), run("g4-c1-seed1", 11.0), run("g4-c1-seed2", 12.0), run("g4-c2", 10.0)]
    text = paper_tables.study(paper_tables.SHORT, "g4-c1", "g4-c2", "g4-c4")({paper_tables.SHORT: rows})
    first, second = markdown_tables.rows(text)
    assert first["Measured test error, %"] == "11.00 ± 0.58"  # a deviation of 1 over the root of 3
    assert (first["Seeds"], first["MACs, computed"], first["Parameters, computed"]) == ("3", "18.3M", "142k")
    assert (second["Setting"], second["Measured test error, %"], second["Seeds"]) == (
        "g4-c2",
        "10.00 ± 0.30",
        "1",
    )  # of 10,000
    assert second["Status"] == "measured small: 12 epochs, 2026-11-21"
    assert "Not run yet: g4-c4;" in text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run("g4-c1-seed1", 5.0, epochs=300), r"g4-c1: .* one recipe and different seeds, not 2 and \[0, 1\]"),
        (run("g4-c1-seed1", 5.0, seed=0), r"not 1 and \[0, 0\]"),
        (run("g4-c1", 10.0), r"not 1 and \[0, 0\]"),
        ({**run("g4-c1-seed1", 5.0), "model": {"groups_1x1": 1}}, "not 2 and"),
        (
            {**run("g4-c1-seed1", 5.0), "data_fingerprint": "g"},
            "rows of different studies or images: g4-c1, g4-c1-seed1",
        ),
        ({**run("g4-c2", 5.0), "study": "another"}, "rows of different studies or images"),
    ],
)
def test_runs_that_do_not_compare_are_never_averaged(other, message):
    with pytest.raises(ValueError, match=message):
        paper_tables.study(paper_tables.SHORT, "g4-c1", "g4-c2")({paper_tables.SHORT: [run("g4-c1", 10.0), other]})


def test_a_setting_whose_name_only_begins_like_another_is_no_run_of_it():
    rows = [run("g4-c1", 10.0), run("g4-c1", 20.0) | {"setting": "g4-c1-seedling"}]
    assert paper_tables.runs_of(rows, ["g4-c1"])["g4-c1"] == rows[:1]


def test_the_curve_of_a_training_with_its_drops():
    text = paper_tables.jumps({paper_tables.SHORT: [run("g4-c4", 10.0)]})
    rows = markdown_tables.rows(text)
    assert [list(row.values()) for row in rows] == [
        ["1", "0", "1.500", "50.00", "100"],
        ["2", "1", "1.250", "41.50", "50"],
    ]
    assert text.endswith("the loss is higher than before at 0 of 1 drops.\n")


def test_a_rise_of_the_loss_after_a_drop_is_counted():
    curve = [[1, 0, 1.5, 60, 50, 100], [2, 1, 1.25, 50, 41, 75], [3, 1, 1.3, 50, 41, 75], [4, 2, 1.4, 50, 41, 50]]
    expected = "In the epoch after a drop the loss is higher than before at 1 of 2 drops (drop 2, 1.300 to 1.400)."
    assert paper_tables.at_the_drops(curve) == expected


def test_what_no_other_setting_beats_is_marked():
    def timed(name: str, error_pct: float, ratio: float) -> dict[str, object]:
        latency = {"device": "a CPU", "ratio": ratio, "ratio_p10": ratio - 0.1, "ratio_p90": ratio + 0.1}
        return {**run(name, error_pct), "latency": latency}

    rows = [timed("fast", 12.0, 0.5), timed("beaten", 12.5, 0.6), timed("good", 10.0, 0.9), run("not timed", 1.0)]
    lines = markdown_tables.rows(paper_tables.choices({paper_tables.SHORT: rows}))
    assert [(line["Setting"], line["Unbeaten"]) for line in lines] == [
        ("good", "yes"),
        ("fast", "yes"),
        ("beaten", "no"),
    ]
    assert lines[0]["Measured ratio to MobileNetV1 (p10 to p90)"] == "0.90 (0.80 to 1.00)"


@pytest.mark.parametrize(("flops", "status"), [(65.8e6, "exact"), (60e6, "+9.7%"), (None, "–")])
def test_a_count_is_exact_or_says_how_far_off_it_is(flops: float | None, status: str):
    figures = {} if flops is None else {"paper_flops": flops}  # 65,816,394 are counted
    entry = PublishedModel(table="cifar", model="m", source="s", preset="condensenet-86", network=None, figures=figures)
    assert paper_tables.count_status(entry, 32) == status


def test_an_error_is_not_run_until_a_whole_training_was():
    whole = {**WHOLE, "error_pct": 5.43, "model": as_json(presets["condensenet-86"])}
    for results, status in (({}, "not run"), ({"fidelity": [whole]}, "measured")):
        lines = {line["Network"]: line for line in markdown_tables.rows(paper_tables.cifar(results))}
        assert lines["CondenseNet-86"]["Error"].startswith(status)
        assert lines["CondenseNet-50"]["Error"].startswith("not run")


def test_a_trained_error_stands_beside_the_published_one_and_only_a_whole_training_does():
    model = as_json(presets["condensenet-86"])
    row = {**WHOLE, "error_pct": 5.432, "model": model}
    lines = {line["Network"]: line for line in markdown_tables.rows(paper_tables.cifar({"fidelity": [row]}))}
    measured = "Measured CIFAR-10 error, %"
    ours = lines["CondenseNet-86"]
    assert (ours["Published FLOPs"], ours["Counted FLOPs"]) == ("65.8M", "65.82M")
    assert (ours["Published parameters"], ours["Counted parameters"]) == ("0.52M", "0.5202M")
    assert (ours["Published CIFAR-10 error, %"], ours[measured]) == ("5.06", "5.43")
    other = lines["CondenseNet-50"]
    assert (other["Published CIFAR-10 error, %"], other[measured]) == ("6.22", NOT_MEASURED)
    lesser: list[dict[str, Any]] = [{"epochs": 299}, {"train_images": 49_000}, {"test_images": 9_999}]
    lesser += [{"data": "patterns"}, {"side": "authors"}, {"seed": 0}]
    longest = {"model": as_json(presets["condensenet-182"])}
    for change in (*lesser, longest):
        assert "5.43" not in paper_tables.cifar({"fidelity": [{**row, **change}]}), change
    assert "5.43" in paper_tables.cifar({"fidelity": [{**row, **longest, "epochs": 600}]})
