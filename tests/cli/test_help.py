"""``--help`` says what there is, at once, and never does anything."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.app import app

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
FOLDERS = ("benchmarks", "cli", "cluster", "condensenet", "docs", "flows", "tasks", "tests")
SCRIPTS = ("docs",)  # run by their paths, all others by `python -m`
WORKERS = {f"tests/{name}.py" for name in ("aarch64/run_kernels", "aarch64/run_onnx", "faults/alone", "latency_worker")}
HELP_S = 1.0


def run(checkout: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "TERM": "dumb", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
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


def programs(checkout: Path) -> Iterator[Path]:
    """The files that do something if they are run, relative to the checkout."""
    for path in sorted(path for folder in FOLDERS for path in (checkout / folder).rglob("*.py")):
        conditions = [ast.unparse(node.test) for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
        if path.name == "__main__.py" or "__name__ == '__main__'" in conditions:
            yield path.relative_to(checkout)


def stamps(checkout: Path) -> dict[Path, int]:
    """When the files of the checkout were changed; what git ignores at its top (out, mlflow.db, .venv) is left out."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    files = [checkout / name for name in tracked.split("\0") if name and "/" not in name]
    files += [path for folder in FOLDERS for path in (checkout / folder).rglob("*") if "__pycache__" not in path.parts]
    return {path: path.lstat().st_mtime_ns for path in files if path.exists()}


@pytest.mark.slow
def test_help_of_any_program_runs_nothing(checkout: Path, tmp_path: Path) -> None:
    """In a folder with parameters, in which a stage would run. One process asks all: the imports take most time."""
    (tmp_path / "params.yaml").write_bytes((checkout / "params.yaml").read_bytes())
    assert {path.as_posix() for path in programs(checkout)} >= WORKERS
    names = {
        str(checkout / path) if path.parts[0] in SCRIPTS else ".".join(path.with_suffix("").parts): path
        for path in programs(checkout)
        if path.as_posix() not in WORKERS
    }
    before = stamps(checkout)
    done = run(checkout, tmp_path, str(Path(__file__).with_name("ask_for_help.py")), *names)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["name"]: (each["status"], each["did"]) for each in answers} == dict.fromkeys(names, (0, []))
    for each in answers:
        usage, path = each["output"].strip().splitlines()[0], names[each["name"]]
        own = ("condensenet", path.name, f"python -m {each['name'].removesuffix('.__main__')}")
        assert usage.lower().startswith("usage: ")
        assert any(name in usage for name in own), each["output"]
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    assert stamps(checkout) == before


@pytest.mark.slow
def test_work_in_place_of_help_is_seen(checkout: Path, tmp_path: Path) -> None:
    """The test above could otherwise pass whatever the programs do."""
    for name, line in {
        "file": "Path('made').write_text('')",
        "folder": "Path('made').mkdir()",
        "process": "__import__('subprocess').run(['true'])",
        "network": "__import__('socket').create_connection(('127.0.0.1', 1))",
        "nothing": "print('usage: none')",
    }.items():
        (tmp_path / f"{name}.py").write_text(f"from pathlib import Path\nif __name__ == '__main__': {line}\n")
    scripts = sorted(map(str, tmp_path.glob("*.py")))
    done = run(checkout, tmp_path, str(Path(__file__).with_name("ask_for_help.py")), *scripts)
    did = {Path(each["name"]).stem: each["did"] for each in map(json.loads, done.stdout.splitlines())}
    assert {name: [event.split()[0] for event in events] for name, events in did.items()} == {
        "file": ["open"],
        "folder": ["os.mkdir"],
        "network": ["socket.connect"],
        "nothing": [],
        "process": ["subprocess.Popen"],
    }
    assert sorted(map(str, tmp_path.iterdir())) == scripts


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
def test_what_is_not_there_is_refused_before_torch_is_imported(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    missing = ["cost a", "bench condensenet-86 a", "export a b", "convert a b", "predict a photo.jpg"]
    missing += ["predict condensenet-86 a", "predict photo.jpg photo.jpg ."]
    code = f"""
import sys
from cli.main import main
for arguments in {missing!r}:
    sys.argv = ["condensenet", *arguments.split()]
    try:
        main()
    except SystemExit as end:
        print(str(end.code).partition(" is neither ")[0])
print("torch" in sys.modules)
"""
    needed = "does not exist: a file, a folder or hf-hub:OWNER/NAME is needed"
    assert run(checkout, tmp_path, "-c", code).stdout.splitlines() == [
        "error: a",
        "error: a",
        *[f"error: a {needed}"] * 3,
        "error: a does not exist",
        "error: . is a folder: name the files in it",
        "False",
    ]


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
