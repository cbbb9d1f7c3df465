"""The automation of prefect-automations.yaml on a real server: a run whose process was killed goes on by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import command_line
from workspaces import Workspace, ask, end_group, serve_prefect, wait_until

PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
FILE = "prefect-automations.yaml"


@pytest.fixture
def automated(stub: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """Deployed on a server of this test's own: automations are about every run of a server."""
    (tmp_path / "prefect").mkdir()
    with serve_prefect(tmp_path / "prefect") as variables:
        workspace = stub.with_variables(**variables)
        workspace.run(*PREFECT, "work-pool", "create", "condensenet", "--type", "process")
        workspace.run(*PREFECT, "deploy", "--all")
        workspace.run(*PREFECT, "automation", "create", "--from-file", FILE)
        yield workspace


def test_a_run_whose_process_was_killed_goes_on(automated: Workspace) -> None:
    """Prefect puts the same run on the schedule again; a stage that was finished is not repeated."""
    file = automated.read(FILE)
    assert isinstance(file, dict)
    (made,) = ask(automated, "automations")
    assert (made["name"], made["enabled"]) == (file["name"], True)
    (automated.path / "slow").write_text("600\n")
    worker = automated.start(*PREFECT, "worker", "start", "--pool", "condensenet")
    try:
        automated.run(*PREFECT, "deployment", "run", "reproduce/local", "--param", 'settings=["g4-c2"]')
        wait_until(lambda: (automated.path / "state/events").exists(), 120)
        (automated.path / "slow").unlink()
        flow_process(worker.pid).kill()
        wait_until(lambda: state(automated) == "COMPLETED", 400, lambda: str(ask(automated, "flow_runs")))
    finally:
        end_group(worker)
    (run,) = ask(automated, "flow_runs")
    assert run["run_count"] == 2
    assert (automated.path / "state/events").read_text().split("\n") == ["begin g4-c2", "begin g4-c2", "end g4-c2", ""]


def flow_process(worker: int) -> psutil.Process:
    """The process of the flow that the worker runs."""
    children = psutil.Process(worker).children(recursive=True)
    return next(child for child in children if "prefect.engine" in command_line(child))


def state(workspace: Workspace) -> object:
    (run,) = ask(workspace, "flow_runs")
    return run["state_type"]
