"""The table of the report: rows by hand, CSV and back, plain text for a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from report_outputs import digits, write_study

from tasks import paths
from tasks.errors import UserError
from tasks.outputs import write_csv, write_json
from tasks.params import Params
from tasks.report import formats
from tasks.report.figures import saving
from tasks.report.figures.scatter import error_figures
from tasks.report.machines import machine_notes
from tasks.report.published import read_published
from tasks.report.results import SettingResult, read_study, wilson_interval_pct
from tasks.report.summary import Value, make_row, read_table
from tasks.report.tables.classes import class_table
from tasks.report.tables.latency import form_table
from tasks.report.tables.overview import comparison, overview_table
from tasks.report.terminal_table import print_table


def format_table(rows: list[dict[str, Value]]) -> str:
    """What ``print_table`` writes into a pipe."""
    print_table(rows, file := io.StringIO())
    return file.getvalue()


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


def test_the_headline_table_keeps_measured_and_published_apart(study_folder: Path, checkout: Path) -> None:
    published = read_published(checkout / paths.PUBLISHED)
    table = overview_table(read_study(digits(checkout)), published)
    titles = [column.title for column in table.columns]
    row = dict(zip(titles, table.rows[2], strict=True))
    assert (row["setting"].text, row["G"].text, row["C"].text) == ("g4-c2", "4", "2")
    assert (row["test error"].text, row["test error"].detail) == ("3.06", "1.7–5.4")  # 11 of 360, Wilson
    assert (row["latency"].text, row["latency"].detail) == ("0.320", "0.304–0.352")  # 0.95 and 1.1 of the median
    assert (row["ratio to MobileNetV1"].text, row["plain export"].text) == ("0.64", "0.480")
    assert row["throughput"].text == "6,250"  # the largest batch on two threads: 0.16 ms an image
    assert row["published error"].text == "–"
    assert [column.title for column in table.columns if column.is_published] == ["published error"]


def test_the_comparison_says_whether_the_errors_differ(study_folder: Path, checkout: Path) -> None:
    study = read_study(digits(checkout))
    sentence = comparison(study)
    assert sentence.startswith("g4-c4 needs 25% of the multiply-adds of g1-c1, at a test error of 3.33% against 2.50%")
    assert "the 95% intervals overlap" in sentence
    params = digits(checkout)
    path = params.paths.setting("evaluate", "g4-c4") / paths.METRICS
    write_json(path, {"images": 360, "pytorch": {}, "onnxruntime": {"top1_error_pct": 50.0}, "disagreements": 0})
    assert "overlap" not in comparison(read_study(params))


def test_the_comparison_says_what_got_worse(study_folder: Path, checkout: Path) -> None:
    sentence = comparison(read_study(digits(checkout)))
    assert sentence.endswith(
        "What got worse: 0.83 percentage points more error; latency, 0.76 times MobileNetV1's instead of 0.40."
    )
    params = digits(checkout)
    for name, error_pct in (("g4-c4", 2.0), ("g1-c1", 2.5)):
        write_error(params, name, error_pct)
    dense = params.paths.setting("benchmark", "g1-c1") / paths.LATENCY
    (params.paths.setting("benchmark", "g4-c4") / paths.LATENCY).write_bytes(dense.read_bytes())
    assert comparison(read_study(params)).endswith("Neither its error nor its latency is worse.")


@pytest.mark.parametrize("unmeasured", [["g4-c4"], ["g4-c4", "g1-c1"]])
def test_the_comparison_does_not_judge_a_latency_that_was_not_measured(
    study_folder: Path, checkout: Path, unmeasured: list[str]
) -> None:
    params = digits(checkout)
    for name in unmeasured:
        (params.paths.setting("benchmark", name) / paths.LATENCY).unlink()
    assert comparison(read_study(params)).endswith(
        f"What got worse: 0.83 percentage points more error. Latency was not measured for {' and '.join(unmeasured)}."
    )
    write_error(params, "g4-c4", 2.0)
    assert comparison(read_study(params)).endswith(
        f"Its error is not worse. Latency was not measured for {' and '.join(unmeasured)}."
    )


def write_error(params: Params, setting: str, error_pct: float) -> None:
    metrics = {"images": 360, "pytorch": {}, "onnxruntime": {"top1_error_pct": error_pct}, "disagreements": 0}
    write_json(params.paths.setting("evaluate", setting) / paths.METRICS, metrics)


@pytest.mark.parametrize(("classes", "has_top5"), [(5, False), (6, True)])
def test_top5_is_shown_with_more_than_five_classes(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int, has_top5: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    params = digits(checkout)
    write_study(params, classes=classes)
    table = overview_table(read_study(params), read_published(checkout / paths.PUBLISHED))
    assert ("top-5 error" in [column.title for column in table.columns]) == has_top5
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_every_form_has_its_figures_and_a_dropped_one_its_reason(study_folder: Path, checkout: Path) -> None:
    table = form_table(read_study(digits(checkout)))
    titles = [column.title for column in table.columns]
    rows = {row[1].text: dict(zip(titles, (cell.text for cell in row), strict=True)) for row in table.rows[8:12]}
    assert {row["setting"] for row in rows.values()} == {"g4-c2"}
    latencies = {form: (row["latency"], row["ratio to MobileNetV1"]) for form, row in rows.items()}
    not_kept = {"int8": ("–", "–"), "native": ("–", "–")}
    assert latencies == {"lowered": ("0.320", "0.64"), "plain": ("0.480", "0.96"), **not_kept}
    assert {form: row["file"] for form, row in rows.items() if form not in not_kept} == {
        "lowered": "133 kB",
        "plain": "137 kB",
    }
    assert [rows[form]["against PyTorch"] for form in ("lowered", "plain", "int8")] == ["3.1e-07", "2.9e-07", "2.0e-02"]
    assert rows["lowered"]["test error"] == "3.06"
    assert "portable" in rows["lowered"]["remark"]
    assert "1.50 times" in rows["int8"]["remark"]
    assert "not compiled" in rows["native"]["remark"]


def test_the_row_holds_the_headline_figures(study_folder: Path, checkout: Path) -> None:
    result = read_study(digits(checkout)).results[2]
    assert {name for name, _ in make_row(result).items() & result.metrics.items()} >= {
        *("test_error_pct", "test_top5_error_pct", "macs", "paper_flops", "params", "file_bytes"),
        *("latency_ms", "latency_ratio", "latency_ms_plain", "latency_ratio_plain"),
    }


def test_connections_are_dropped_in_the_epochs_that_reach_a_new_stage(checkout: Path) -> None:
    stages = (0, 1, 1, 3)
    history = [{"epoch": epoch, "condensing_stage": stage} for epoch, stage in enumerate(stages, 1)]
    result = SettingResult(setting=digits(checkout).settings["g4-c4"], history=history)
    assert result.dropping_epochs == [(2, 1), (4, 3)]


def test_the_csv_file_gives_the_rows_back(study_folder: Path, checkout: Path) -> None:
    rows = [make_row(result) for result in read_study(digits(checkout)).results]
    rows[1]["latency_ms"] = None
    path = study_folder / "table.csv"
    write_csv(path, rows)
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


FIGURES_OF_G4_C2 = ("3.06", "333 k", "383 k", "33.3 k", "0.320", "0.64", "0.480", "133 kB")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_figure_is_cut_off_or_broken_on_a_terminal(width: int, study_folder: Path, checkout: Path) -> None:
    row = {**make_row(read_study(digits(checkout)).results[2]), "setting": "a" * 40}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")  # rich then takes the file for a terminal
        patch.setenv("COLUMNS", str(width))
        file = io.StringIO()
        print_table([row], file)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
    assert max(map(len, lines)) <= max(width, 80)
    assert any(all(figure in line for figure in FIGURES_OF_G4_C2) for line in lines)
    assert "".join(lines).count("a" * 5) >= 4  # the name is folded, not shortened


def test_a_pipe_gets_plain_text_with_one_line_a_setting(study_folder: Path, checkout: Path) -> None:
    text = format_table([make_row(result) for result in read_study(digits(checkout)).results])
    assert "\x1b" not in text
    line = next(line for line in text.splitlines() if line.startswith("g4-c2 "))
    assert tuple(re.split(r" {2,}", line.strip())) == ("g4-c2", "4", "2", *FIGURES_OF_G4_C2)


def test_an_older_table_without_the_plain_form_is_printed(study_folder: Path, checkout: Path) -> None:
    row = make_row(read_study(digits(checkout)).results[2])
    del row["latency_ms_plain"]
    line = next(line for line in format_table([row]).splitlines() if line.startswith("g4-c2 "))
    assert "0.320" in line
    assert "not run" in line


def test_the_terminal_table_names_the_machine(study_folder: Path, checkout: Path) -> None:
    text = " ".join(format_table([make_row(result) for result in read_study(digits(checkout)).results]).split())
    assert "ONNX Runtime 1.31.1, Python 3.11.2; Example CPU @ 2.00GHz (x86_64), 2 cores" in text
    assert "MobileNetV1" in text


def test_settings_timed_on_different_machines_are_told_apart(study_folder: Path, checkout: Path) -> None:
    rows = [make_row(result) for result in read_study(digits(checkout)).results[:2]]
    assert machine_notes(rows) == [f"{rows[0]['runtime']}; {rows[0]['hardware']}."]
    rows[1]["hardware"] = "another CPU"
    assert machine_notes(rows)[1] == f"g2-c2: {rows[1]['runtime']}; another CPU."


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
    assert formats.short_count(value) == text


def test_the_wilson_interval_of_known_examples() -> None:
    # 0 of 10 and 5 of 10: the classic table gives 0-27.8 and 23.7-76.3
    assert wilson_interval_pct(0, 10) == pytest.approx((0, 27.75), abs=0.01)
    assert wilson_interval_pct(50, 10) == pytest.approx((23.66, 76.34), abs=0.01)


def test_a_class_without_test_images_has_no_error(study_folder: Path, checkout: Path) -> None:
    params = digits(checkout)
    for name in params.settings:
        path = params.paths.setting("evaluate", name) / paths.PER_CLASS
        path.write_text(path.read_text() + "class 10,0,,\n")  # as evaluate writes it
    table = class_table(read_study(params))
    assert [cell.text for cell in table.rows[-1]] == ["class 10", "0", "–", "–", "–", "–"]
    assert "–" not in [cell.text for cell in table.rows[0]]


def test_the_latency_chart_has_the_native_form(study_folder: Path, checkout: Path) -> None:
    path = digits(checkout).paths.setting("benchmark", "g4-c4") / paths.LATENCY
    facts = json.loads(path.read_text())
    lowered = next(row for row in facts["rows"] if row["form"] == paths.LOWERED and row["threads"] == 1)
    write_json(path, {**facts, "rows": [*facts["rows"], {**lowered, "form": paths.NATIVE, "median_ms": 0.111}]})
    published = read_published(checkout / paths.PUBLISHED)
    _, latency = error_figures(read_study(digits(checkout)), published)
    assert "g4-c4: 0.380 ms (0.111 ms in native form), 3.33%" in latency.label
    svg = saving.to_svg(latency.figure, latency.key, latency.label)
    assert "<title>native form of g4-c4: error 3.33% (1.9–5.7%), 0.380 ms, native form 0.111 ms</title>" in svg
    assert svg.count("<title>g") == 4
