"""The choice of a setting for a bound, from made-up outputs of a study."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from report_outputs import write_study

from tasks import params
from tasks.choose import Bounds, Candidate, candidates, choose, comparable, verdict, yardstick


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
    assert line == "No setting is within the bounds. The least of all: error 10, latency 4."


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


@pytest.mark.parametrize("arguments", [("--macs", "0"), ("--latency", "fast"), ("--error", "nan"), ("--macs", "k")])
def test_a_bound_that_is_no_number_is_named(arguments: tuple[str, str], checkout: Path, tmp_path: Path) -> None:
    done = run(checkout, tmp_path, *arguments)
    assert done.returncode == 2
    assert f"argument {arguments[0]}: {arguments[1]!r} is not allowed" in done.stderr


def test_without_results_it_says_what_to_run(checkout: Path, tmp_path: Path) -> None:
    done = run(checkout, tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: no setting of digits is evaluated yet: run dvc repro benchmark\n"
