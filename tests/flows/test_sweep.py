"""The flow ``sweep``: a setting for each combination, impossible ones named, and what is kept when one fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from workspaces import Workspace, ask, wait_until

from flows import grid as grids
from flows.parameters import keys_of
from tasks import params
from tasks.errors import UserError
from tasks.report.pareto import pareto

GRID = {"model.groups_1x1": [1, 4], "model.condensation_factor": [1, 3, 4], "train.seed": [0]}
RUN = """
import json, sys
from flows.sweep import sweep
state = sweep(**json.loads(sys.argv[1]), return_state=True)
print(state.type.value, state.result() if state.is_completed() else state.message)
"""


@pytest.fixture
def text(checkout: Path) -> str:
    return (checkout / "params.yaml").read_text()


def test_every_possible_point_is_a_setting_and_every_other_is_named(text: str):
    made = grids.compose(text, GRID, None, None)
    assert list(made.settings) == ["g1-c1-seed0", "g1-c4-seed0", "g4-c1-seed0", "g4-c4-seed0"]
    assert list(made.impossible) == ["g1-c3-seed0", "g4-c3-seed0"]  # 16 channels have no third
    assert "condensation_factor=3 does not divide" in made.impossible["g1-c3-seed0"]
    loaded = params.parse(YAML(typ="safe", pure=True).load(made.text))
    assert loaded.study == "digits-sweep"
    setting = loaded.settings["g4-c4-seed0"]
    assert (setting.model.groups_1x1, setting.model.condensation_factor, setting.train.seed) == (4, 4, 0)
    assert setting.train.epochs == 16  # as in the study


def test_the_names_of_points_do_not_depend_on_the_order_of_the_keys(text: str):
    """Prefect's server on PostgreSQL changes it."""
    made = [grids.compose(text, dict(items), None, None) for items in (GRID.items(), reversed(GRID.items()))]
    assert made[0] == made[1]


def test_points_may_start_from_a_setting(text: str):
    made = grids.compose(text, {"train.learning_rate": [0.1]}, "g4-c2", "rates")
    setting = params.parse(YAML(typ="safe", pure=True).load(made.text)).settings["lr0_1"]
    assert (setting.model.groups_1x1, setting.model.condensation_factor) == (4, 2)
    assert (made.study, setting.train.learning_rate) == ("rates", 0.1)


@pytest.mark.parametrize(
    ("grid", "base", "message"),
    [
        ({"train.seed": [1]}, "none", "base='none' is not allowed: g1-c1"),
        ({"train.seed": [1, 1]}, "g4-c2", "two points of the grid are called seed1"),
        ({"train.seed": list(range(201))}, "g4-c2", "a grid of 201 points is not allowed: at most 200"),
        ({"model.condensation_factor": [3, 5]}, None, "no point of the grid is possible: .*3 does not divide"),
        ({"train.epochs": [-1]}, "g4-c2", "no point of the grid is possible: .*epochs=-1"),
    ],
)
def test_a_grid_that_cannot_run_is_one_line(text: str, grid: dict, base: str | None, message: str):
    with pytest.raises(UserError, match=message) as error:
        grids.compose(text, grid, base, None)
    assert "\n" not in str(error.value)


def test_the_pareto_front_by_hand():
    rows = {"small": (5, 1), "middle": (4, 2), "worse": (5, 2), "large": (1, 9), "twin": (1, 9)}
    assert pareto(rows) == ["small", "middle", "large", "twin"]
    assert pareto({}) == []


def test_every_key_is_one_that_params_yaml_has(text: str):
    raw = YAML(typ="safe", pure=True).load(text)
    for section in ("data", "train", "ray", "export", "evaluate", "benchmark", "tables"):
        assert set(raw[section]) == {key.partition(".")[2] for key in keys_of(section)}


def run_sweep(workspace: Workspace, **parameters: object) -> str:
    """How it ended, without line breaks."""
    done = workspace.run(sys.executable, "-c", RUN, json.dumps(parameters)).stdout
    return " ".join(done[done.rindex("FAILED" if "FAILED" in done else "COMPLETED") :].split())


def test_finished_points_stay_when_one_fails_and_are_not_run_again(served_stub: Workspace):
    grid = {"model.groups_1x1": [1, 4], "model.condensation_factor": [2, 3]}
    (served_stub.path / "fail").write_text("g4-c2\n")
    assert run_sweep(served_stub, grid=grid) == "FAILED train@g4-c2: error, g4-c2 was told to fail"
    assert (served_stub.path / "out/digits-sweep/train/g1-c2/model").exists()
    (served_stub.path / "fail").unlink()
    assert run_sweep(served_stub, grid=grid) == "COMPLETED digits-sweep: 2 points are up to date, 2 are impossible"
    begun = (served_stub.path / "state/events").read_text().split("\n")
    assert [begun.count(f"begin {name}") for name in ("g1-c2", "g4-c2")] == [1, 2]
    (run, *_) = ask(served_stub, "flow_runs", sort="START_TIME_DESC", limit=1)
    assert run["name"] == "params.yaml · groups_1x1 × condensation_factor"


def test_two_flows_a_sweep_an_experiment_and_a_dvc_repro_at_once(served_stub: Workspace):
    """The flows share the work, DVC by hand may find it busy, the sweep has other parameters: nothing runs twice.

    The experiment runs in a copy of the checkout and has parameters of its own.
    """
    (served_stub.path / "slow").write_text("10\n")  # on a busy machine the sweep begins late
    flows = [served_stub.start(sys.executable, "-m", "flows.reproduce") for _ in range(2)]
    wait_until((served_stub.path / "state/events").exists, 120)
    experiment = served_stub.start(
        sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", "apart", "-S", "train.seed=7"
    )
    # DVC writes the experiment's parameters into params.yaml and restores it before it makes the copy.
    wait_until(lambda: any((served_stub.path / ".dvc/tmp/exps").glob("*/*/params.yaml")), 120)
    refused = run_sweep(served_stub, grid={"model.groups_1x1": [1, 4]})
    by_hand = served_stub.run(sys.executable, "-m", "dvc", "repro", "report", check=False)
    ended = [flow.communicate(timeout=240) for flow in flows]
    assert [flow.returncode for flow in flows] == [0, 0], ended
    assert refused.startswith("FAILED another flow is running here with other parameters")
    assert by_hand.returncode == 0 or "busy" in by_hand.stderr
    said, wrong = experiment.communicate(timeout=240)
    assert experiment.returncode == 0, said + wrong
    assert "apart" in served_stub.dvc("exp", "list", "--name-only")
    begun = (served_stub.path / "state/events").read_text().split("\n")
    assert [begun.count(f"begin {name}") for name in ("g2-c2", "g4-c2")] == [1, 1]
    assert "up to date" in served_stub.dvc("repro", "report")
    (served_stub.path / "slow").unlink()
    assert run_sweep(served_stub, grid={"model.groups_1x1": [1, 4]}).startswith("COMPLETED digits-sweep: 2 points")


def test_points_are_made_alone_and_the_whole_sweep_does_the_rest(served_stub: Workspace):
    grid = {"model.groups_1x1": [1, 4], "model.condensation_factor": [2, 3]}
    assert run_sweep(served_stub, grid=grid, points=["g2-c2"]).startswith(
        "FAILED points: 'g2-c2' is not allowed: g1-c2, "
    )
    refused = run_sweep(served_stub, grid=grid, points=["g1-c3"])
    assert refused.startswith("FAILED points: 'g1-c3' is not allowed: ")
    assert "condensation_factor=3 does not divide" in refused
    assert run_sweep(served_stub, grid=grid, points=["g4-c2"]).startswith("COMPLETED digits-sweep: 1 points are up to")
    assert [path.name for path in (served_stub.path / "out/digits-sweep/train").iterdir()] == ["g4-c2"]
    assert not (served_stub.path / "out/digits-sweep/report").exists()
    assert run_sweep(served_stub, grid=grid).startswith("COMPLETED digits-sweep: 2 points are up to date")
    assert (served_stub.path / "out/digits-sweep/report").exists()
    begun = (served_stub.path / "state/events").read_text().split("\n")
    assert [begun.count(f"begin {name}") for name in ("g1-c2", "g4-c2")] == [1, 1]


def test_a_key_that_settings_do_not_have_is_refused_before_anything_runs(served_stub: Workspace):
    for wrong, named in (
        ({"grid": {"data.source": ["cifar10"]}}, "data.source"),
        ({"grid": GRID, "at_once": 0}, "at_once"),
    ):
        refused = run_sweep(served_stub, **wrong)
        assert refused.startswith("FAILED")
        assert named in refused
    assert not (served_stub.path / "out").exists()
