"""What a user can get wrong at a command line: one line, exit status 1, no traceback, nothing done."""

from __future__ import annotations

import sys

import pytest
from workspaces import Workspace

WRONG = {  # what is written instead in params.yaml -> what the line says
    "a wrong key": ("momentum: 0.9", "momentun: 0.9", "unknown key train.momentun: allowed are epochs"),
    "a wrong type": ("momentum: 0.9", "momentum: many", "train.momentum='many' is not allowed"),
    "G does not divide": ("groups_1x1: 4", "groups_1x1: 3", "settings.g4-c2: groups_1x1=3 does not divide the"),
    "C does not divide": ("condensation_factor: 2", "condensation_factor: 5", "condensation_factor=5 does not divide"),
    "no YAML": ("momentum: 0.9", "momentum: [0.9", "params.yaml: it is not valid YAML"),
}


@pytest.mark.parametrize(
    ("module", "case"), [*(("tasks.prepare", case) for case in WRONG), ("flows.reproduce", "a wrong key")]
)
def test_wrong_parameters_are_one_line(stub: Workspace, module: str, case: str) -> None:
    old, new, message = WRONG[case]
    stub.edit(old, new)
    done = stub.run(sys.executable, "-m", module, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not (stub.path / "out").exists()


def test_dvc_repro_prints_the_same_line(stub: Workspace) -> None:
    old, new, message = WRONG["a wrong type"]
    stub.edit(old, new)
    stub.edit("mkdir -p out/${study} &&", "python -m tasks.prepare &&", "dvc.yaml")
    output = stub.dvc("repro", "prepare", check=False)
    assert f"error: params.yaml: {message}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("tasks.train", [], "usage: python -m tasks.train SETTING"),
        ("tasks.convert", ["g8-c8"], "setting 'g8-c8' is not in params.yaml: g2-c2, g4-c2"),
        ("flows.reproduce", ["--setting", "g8-c8"], "setting 'g8-c8' is not in params.yaml: g2-c2, g4-c2"),
        (
            "flows.reproduce",
            ["--study", "digits", "--setting", "g8-c8"],
            "setting 'g8-c8' is not in params.yaml: g1-c1",
        ),
        ("flows.reproduce", ["--study", "mnist"], "study='mnist' is not allowed: "),
        ("flows.reproduce", ["--set", "train.epochs"], "override 'train.epochs' is not allowed: key=value"),
    ],
)
def test_wrong_arguments_are_one_line(stub: Workspace, module: str, arguments: list[str], message: str) -> None:
    done = stub.run(sys.executable, "-m", module, *arguments, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
