"""The table of the report: rows by hand, CSV and back, plain text for a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_outputs import digits, write_json, write_study

from tasks import paths
from tasks.errors import UserError
from tasks.outputs import as_csv
from tasks.report import details, forms, units
from tasks.report.read import read_study
from tasks.report.table import format_table, make_row, read_table


@pytest.fixture
def study_folder(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    params = digits(checkout)
    monkeypatch.chdir(tmp_path)
    write_study(params)
    return tmp_path


def test_a_row_holds_the_grouped_forms_cost_and_the_latency_of_one_thread(study_folder: Path, checkout: Path) -> None:
    study = read_study(digits(checkout))
    row = make_row(study.results[2])
    assert row["setting"] == "g4-c2"
    assert (row["groups"], row["condensation_factor"]) == (4, 2)
    assert row["test_error_pct"] == pytest.approx(100 * 11 / 360)
    assert (row["macs"], row["paper_flops"], row["params"]) == (333_333, 383_333, 33_333)
    assert row["latency_ms"] == pytest.approx(0.32)  # 0.2 ms * (1 + 0.3 * 2)
    assert row["latency_ratio"] == pytest.approx(0.64)
    assert row["latency_ms_plain"] == pytest.approx(0.48)
    assert row["latency_ratio_plain"] == pytest.approx(0.96)
    assert row["latency_ms_native"] is None
    assert row["file_bytes"] == 133_333


def test_a_latency_of_before_forms_were_named_is_of_the_exported_file(study_folder: Path, checkout: Path) -> None:
    params = digits(checkout)
    path = params.paths.setting("benchmark", "g4-c2") / paths.LATENCY
    facts = json.loads(path.read_text())
    rows = [{key: value for key, value in row.items() if key != "form"} for row in facts["rows"][:4]]
    write_json(path, {**facts, "rows": rows})
    row = make_row(read_study(params).results[2])
    assert row["latency_ms"] == pytest.approx(0.32)
    assert row["latency_ms_plain"] is None


def test_the_forms_are_told_apart_and_a_dropped_one_says_why(study_folder: Path, checkout: Path) -> None:
    found = forms.forms(read_study(digits(checkout)))
    texts = {row[1].text: [cell.text for cell in row[2:]] for row in found.rows if row[0].text == "g4-c2"}
    assert texts["lowered"] == ["3.1e-07", "3.06", "0.320", "0.64", "133 kB", "plan: portable"]
    assert texts["plain"] == ["2.9e-07", "–", "0.480", "0.96", "137 kB", ""]
    assert texts["int8"] == ["2.0e-02", "–", "–", "–", "–", "not kept: 1.50 times"]
    assert texts["native"] == ["–", "–", "–", "–", "–", "not kept: not compiled"]


def test_the_csv_file_gives_the_rows_back(study_folder: Path, checkout: Path) -> None:
    rows = [make_row(result) for result in read_study(digits(checkout)).results]
    rows[1]["latency_ms"] = None
    path = study_folder / "table.csv"
    path.write_text(as_csv(rows), encoding="utf-8")
    assert read_table(path) == rows


def test_the_settings_in_force_make_the_rows_and_not_the_folders(study_folder: Path, checkout: Path) -> None:
    params = digits(checkout)
    (params.paths.root / "train" / "g1-c1").rename(params.paths.root / "train" / "g8-c8")
    names = [result.name for result in read_study(params).results]
    assert names == ["g1-c1", "g2-c2", "g4-c2", "g4-c4"]


def test_a_stage_that_was_not_run_is_named(study_folder: Path, checkout: Path) -> None:
    params = digits(checkout)
    (params.paths.setting("benchmark", "g2-c2") / paths.LATENCY).unlink()
    result = read_study(params).results[1]
    assert result.missing == ["benchmark"]
    line = next(line for line in format_table([make_row(result)]).splitlines() if line.startswith("g2-c2"))
    assert line.count("not run") == 3


def test_the_terminal_table_fits_and_names_the_machine(study_folder: Path, checkout: Path) -> None:
    rows = [{**make_row(result), "setting": "a" * 40} for result in read_study(digits(checkout)).results]
    text = format_table(rows)
    assert max(map(len, text.splitlines())) <= 110
    assert "ONNX Runtime 1.31.1, Python 3.11.2, Example CPU" in text
    assert "MobileNetV1" in text


def test_a_damaged_output_is_one_line(study_folder: Path, checkout: Path) -> None:
    params = digits(checkout)
    path = params.paths.setting("convert", "g2-c2") / paths.KEPT
    path.write_text('{"layers": [', encoding="utf-8")
    with pytest.raises(UserError, match=r"kept\.json cannot be read"):
        read_study(params)
    write_json(path, {"layers": [{"name": "a layer without the rest"}]})
    with pytest.raises(UserError, match=r"kept\.json cannot be read"):
        read_study(params)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (65_816_394, "65.8 M"),
        (520_202, "520 k"),
        (999_999, "1.00 M"),
        (812, "812"),
        (None, "not run"),
        (9_388e6, "9.39 G"),
    ],
)
def test_counts_keep_three_digits(value: float | None, text: str) -> None:
    assert units.count(value) == text


def test_the_wilson_interval_of_known_examples() -> None:
    # 0 of 10 and 5 of 10: the classic table gives 0-27.8 and 23.7-76.3
    assert units.wilson_interval_pct(0, 10) == pytest.approx((0, 27.75), abs=0.01)
    assert units.wilson_interval_pct(50, 10) == pytest.approx((23.66, 76.34), abs=0.01)


def test_a_class_without_test_images_has_no_error(study_folder: Path, checkout: Path) -> None:
    params = digits(checkout)
    for name in params.settings:
        path = params.paths.setting("evaluate", name) / paths.PER_CLASS
        path.write_text(path.read_text() + "class 10,0,,\n")  # as evaluate writes it
    found = details.per_class(read_study(params))
    assert found is not None
    assert [cell.text for cell in found.rows[-1]] == ["class 10", "0", "–", "–", "–", "–"]
    assert "–" not in [cell.text for cell in found.rows[0]]
