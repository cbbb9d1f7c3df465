"""The choice of a setting for a bound, from made-up outputs of a study."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from report_outputs import write_study

from tasks import params, paths, tracking
from tasks.choose import Bounds, Candidate, arguments, candidates, choose, comparable, main, verdict, yardstick
from tasks.errors import UserError


def candidate(name: str, error: float, latency: float, macs: float) -> Candidate:
    interval = (error - 1, error + 1)
    return Candidate(name=name, error=error, interval=interval, latency=latency, ratio=latency / 2, macs=macs)


DENSE = candidate("dense", 10.0, 9.0, 40e6)
HALF = candidate("half", 11.0, 6.0, 20e6)
QUARTER = candidate("quarter", 14.0, 4.0, 10e6)
SLOW = candidate("slow", 13.0, 8.0, 9e6)
ALL = (DENSE, HALF, QUARTER, SLOW)


@pytest.mark.parametrize(
    ("bounds", "best"),
    [
        (Bounds(), DENSE),
        (Bounds(latency=6.0), HALF),
        (Bounds(latency=5.9), QUARTER),
        (Bounds(macs=10e6), SLOW),
        (Bounds(macs=10e6, latency=7.0), QUARTER),
        (Bounds(error=13.5), HALF),  # the fastest of three
        (Bounds(error=13.5, latency=8.5), SLOW),  # the fewest multiply-adds of two
        (Bounds(error=9.9), None),
    ],
)
def test_the_best_within_bounds(bounds: Bounds, best: Candidate | None) -> None:
    assert choose(ALL, bounds) is best


def test_of_equal_errors_the_faster_one_is_chosen() -> None:
    assert choose((DENSE, replace(HALF, error=10.0)), Bounds()).name == "half"


def test_the_verdict_names_cheaper_settings_of_about_the_same_error() -> None:
    first, second = verdict(ALL, DENSE, Bounds())
    assert first == "dense: error 10.00% (9.0 to 11.0), 9.00 ms (4.50 times MobileNetV1), 40.0 M multiply-adds"
    assert second.endswith(": half.")
    assert len(verdict(ALL, QUARTER, Bounds(latency=5))) == 1


def test_cheaper_is_what_has_less_of_what_is_bounded() -> None:
    """Slower, with fewer multiply-adds: cheaper only where those are bounded."""
    fewer = candidate("fewer", 11.5, 7.0, 15e6)
    assert len(verdict((HALF, fewer), HALF, Bounds(latency=8))) == 1
    assert verdict((HALF, fewer), HALF, Bounds(macs=20e6))[1].endswith(": fewer.")


def test_a_setting_that_was_timed_while_the_machine_was_busy_is_not_taken_for_slow() -> None:
    quiet = replace(HALF, latency=6.0, ratio=3.0)  # MobileNetV1 took 2 ms beside it
    busy = replace(QUARTER, latency=9.0, ratio=1.5)  # 6 ms
    third = replace(SLOW, latency=8.0, ratio=4.0)
    assert [one.latency for one in comparable((quiet, busy, third))] == [6.0, 3.0, 8.0]
    assert yardstick((quiet, busy, third)).endswith("takes 2.00 ms: it took 2.00 to 6.00 beside them.")


def test_the_verdict_says_what_is_nearest_when_nothing_fits() -> None:
    (line,) = verdict(ALL, None, Bounds(latency=3, error=9))
    nearest = "error 10.00% (dense), latency 4.00 ms (quarter)"
    assert line == f"No setting is within the bounds. The least of all: {nearest}."


def test_the_verdict_names_only_the_bounds_that_no_setting_meets() -> None:
    (line,) = verdict(ALL, None, Bounds(latency=3, error=12, macs=8e6))
    nearest = "latency 4.00 ms (quarter), 9.00 M multiply-adds (slow)"
    assert line == f"No setting is within the bounds. The least of all: {nearest}."


def test_the_verdict_says_that_each_bound_alone_can_be_met() -> None:
    (line,) = verdict(ALL, None, Bounds(error=10, macs=9e6))
    assert line == (
        "No setting is within all bounds at once. Each bound alone can be met; "
        "the least of all: error 10.00% (dense), 9.00 M multiply-adds (slow)."
    )


def test_a_study_is_read_and_settings_without_a_latency_are_left_out(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = params.load(checkout / "params.yaml")
    write_study(digits, ["g4-c2", "g4-c4"])
    (digits.paths.setting("benchmark", "g4-c4") / "latency.json").unlink()
    (found,) = candidates(digits)
    assert (found.name, found.macs) == ("g4-c2", 1e6)
    assert found.error == pytest.approx(100 * 9 / 360)
    assert found.interval[0] < found.error < found.interval[1]


@pytest.fixture
def measured(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """A study in the working folder of which two settings were measured: g4-c2, and g4-c4 with a larger error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((checkout / "params.yaml").read_text())
    digits = params.load()
    write_study(digits, ["g4-c2", "g4-c4"])
    return digits


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["choose.py", *arguments])
    main()


@pytest.mark.parametrize(
    ("stage", "file", "keys", "value", "message"),
    [
        ("evaluate", paths.METRICS, ("onnxruntime", "top1_error_pct"), 120, "its test error is 120, which cannot be"),
        (
            "evaluate",
            paths.METRICS,
            ("onnxruntime", "top1_error_pct"),
            math.nan,
            "its test error is nan, which cannot be",
        ),
        ("evaluate", paths.METRICS, ("images",), 0, "its number of test images is 0, which cannot be"),
        ("benchmark", paths.LATENCY, ("rows", 0, "median_ms"), -1, "its latency is -1, which cannot be"),
        ("benchmark", paths.LATENCY, ("rows", 0, "ratio"), math.inf, "its latency ratio is inf, which cannot be"),
        ("convert", paths.COST, ("grouped", "macs"), math.nan, "its number of multiply-adds is nan, which cannot be"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(
    measured: params.Params, stage: str, file: str, keys: tuple[str | int, ...], value: float, message: str
) -> None:
    path = measured.paths.setting(stage, "g4-c4") / file
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"^g4-c4 cannot be compared: {message}; run its stage again$"):
        candidates(measured)


def test_with_a_device_its_latencies_are_taken(
    measured: params.Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store is the only part that is replaced: it knows g4-c4 on one device."""
    logged = {"latency/ms_pi4": 70.0, "latency/ratio_pi4": 7.0}
    second = f"{17:032x}"
    monkeypatch.setattr(tracking, "metrics_of", lambda run: logged if run["mlflow_run_id"] == second else {})
    start(monkeypatch, "--device", "pi4")
    printed = capsys.readouterr().out
    assert "g4-c4: error 2.78% (1.5 to 5.0), 70.0 ms (7.00 times MobileNetV1)" in printed
    assert "g4-c2" not in printed
    with pytest.raises(UserError, match=r"no setting of digits is timed on 'pi5' yet: run the flow benchmark-device"):
        start(monkeypatch, "--device", "pi5")


def test_only_settings_that_no_other_beats_have_an_asterisk(
    measured: params.Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second has fewer multiply-adds, until the first has as few of them."""
    start(monkeypatch)
    assert starred(capsys.readouterr().out) == {"g4-c2": True, "g4-c4": True}
    file = measured.paths.setting("convert", "g4-c4") / paths.COST
    file.write_text(file.read_text().replace("500000", "1000000"))
    start(monkeypatch)
    assert starred(capsys.readouterr().out) == {"g4-c2": True, "g4-c4": False}


def starred(printed: str) -> dict[str, bool]:
    rows = [line.split() for line in printed.splitlines() if " to " in line and line.split()[0] in ("g4-c2", "g4-c4")]
    return {row[0]: row[-1] == "*" for row in rows}


def test_nothing_within_the_bounds_is_exit_status_1(
    measured: params.Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, "--macs", "100k")
    assert end.value.code == 1
    assert "No setting is within the bounds" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "macs"), [("350k", 350e3), ("20M", 20e6), ("1.5G", 1.5e9), ("7", 7)])
def test_multiply_adds_have_units(text: str, macs: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["choose.py", "--macs", text])
    assert arguments().macs == macs


@pytest.mark.parametrize("option", ["--latency", "--error"])
def test_milliseconds_and_percentages_have_none(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["choose.py", option, "1M"])
    with pytest.raises(SystemExit):
        arguments()
    assert f"argument {option}: '1M' is not allowed: a number above 0\n" in capsys.readouterr().err


def run(checkout: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "params.yaml").write_text((checkout / "params.yaml").read_text())
    command = [sys.executable, "-m", "tasks.choose", *arguments]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(checkout), "PATH": ""}, capture_output=True, text=True
    )


def test_the_command_prints_the_table_and_the_choice(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(params.load(checkout / "params.yaml"))
    done = run(checkout, tmp_path, "--macs", "350k")
    assert done.returncode == 0, done.stderr
    assert "g4-c2: error 3.06% (1.7 to 5.4), 0.320 ms (0.64 times MobileNetV1), 333 k multiply-adds" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("--macs", "0"), ("--latency", "fast"), ("--error", "nan"), ("--macs", "k"), ("--macs", "1e308G")]
)
def test_a_bound_that_is_no_number_is_named(arguments: tuple[str, str], checkout: Path, tmp_path: Path) -> None:
    done = run(checkout, tmp_path, *arguments)
    assert done.returncode == 2
    assert f"argument {arguments[0]}: {arguments[1]!r} is not allowed" in done.stderr


def test_without_results_it_says_what_to_run(checkout: Path, tmp_path: Path) -> None:
    done = run(checkout, tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: no setting of digits is evaluated yet: run dvc repro benchmark\n"
