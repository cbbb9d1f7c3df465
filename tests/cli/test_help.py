"""``--help`` says what there is, at once, and never does anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.app import app

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
STAGES = ["prepare", "yardstick", "train", "convert", "export", "evaluate", "benchmark", "report", "tables", "track"]
MODULES = [
    *(f"tasks.{name}" for name in (*STAGES, "choose", "release")),
    "flows.reproduce",
    "flows.plan",
    "condensenet.deploy.latency",
]
HELP_S = 1.0


def run(checkout: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "TERM": "dumb", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_commands_are_there() -> None:
    expected = ["train", "predict", "export", "bench", "cost", "convert", "demo", "report", "ui", "doctor"]
    assert expected == COMMANDS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_of_the_command_leaves_no_trace(checkout: Path, tmp_path: Path, name: str) -> None:
    done = run(checkout, tmp_path, "-m", "cli", *filter(None, [name]), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_help_of_a_module_runs_nothing(checkout: Path, tmp_path: Path, module: str) -> None:
    """In a folder with parameters, in which the stage would run."""
    (tmp_path / "params.yaml").write_bytes((checkout / "params.yaml").read_bytes())
    done = run(checkout, tmp_path, "-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {module}")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prepare", "yardstick", "report", "tables"])
def test_a_stage_without_settings_takes_no_argument(checkout: Path, tmp_path: Path, stage: str) -> None:
    (tmp_path / "params.yaml").write_bytes((checkout / "params.yaml").read_bytes())
    done = run(checkout, tmp_path, "-m", f"tasks.{stage}", "g4-c4")
    assert done.returncode == 1
    assert done.stderr == f"error: usage: python -m tasks.{stage}, without g4-c4\n"


@pytest.mark.slow
def test_help_comes_at_once_and_without_torch(checkout: Path, tmp_path: Path) -> None:
    def seconds() -> float:
        started = time.monotonic()
        run(checkout, tmp_path, "-m", "cli", "--help")
        return time.monotonic() - started

    assert min(seconds() for _ in range(3)) < HELP_S
    code = "import sys, cli.app; print([n for n in ('torch', 'numpy', 'mlflow', 'ray', 'dvc') if n in sys.modules])"
    assert run(checkout, tmp_path, "-c", code).stdout.strip() == "[]"


@pytest.mark.slow
def test_a_mistake_is_one_line_and_status_1(checkout: Path, tmp_path: Path) -> None:
    done = run(checkout, tmp_path, "-m", "cli", "cost", "condensenet-87")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: condensenet-87 ")
    assert "condensenet-86" in done.stderr


@pytest.mark.slow
def test_names_are_completed(checkout: Path, tmp_path: Path) -> None:
    environment = {"_CONDENSENET_COMPLETE": "complete_bash", "COMP_WORDS": "condensenet cost light", "COMP_CWORD": "2"}
    code = "from cli.app import app; app(prog_name='condensenet')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["light-94", "light-160"]
