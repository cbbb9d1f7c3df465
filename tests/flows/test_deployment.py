"""`prefect deploy`, a process worker and `prefect deployment run`, for real on loopback."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from workspaces import Workspace, ask, end_group, wait_until

PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


@pytest.fixture
def deployed(served_stub: Workspace) -> Workspace:
    served_stub.run(*PREFECT, "work-pool", "create", "condensenet", "--type", "process", "--overwrite")
    served_stub.run(*PREFECT, "deploy", "--all")
    return served_stub


def test_a_worker_runs_the_deployment(deployed: Workspace, tmp_path: Path) -> None:
    bare = deployed.with_variables(PATH="/usr/bin:/bin")  # a worker's path need not hold the environment
    worker = bare.start(*PREFECT, "worker", "start", "--pool", "condensenet")
    try:
        done = bare.run(
            *(*PREFECT, "deployment", "run", "reproduce/local", "--watch", "--watch-timeout", "240"),
            *("--param", 'overrides={"train.epochs": 2}'),
            check=False,
        )
    finally:
        end_group(worker)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epochs: 2\n" in (deployed.path / "params.yaml").read_text()
    assert "up to date" in deployed.dvc("repro")
    (run,) = ask(deployed, "flow_runs", sort="START_TIME_DESC", limit=1)
    stages = ask(deployed, "task_runs", flow_runs={"id": {"any_": [run["id"]]}})
    assert {stage["name"] for stage in stages} == {"prepare", "train@g2-c2", "train@g4-c2", "report"}
    assert {stage["state_type"] for stage in stages} == {"COMPLETED"}
    assert len({str(stage["name"]): stage["task_inputs"] for stage in stages}["report"]["wait_for"]) == 2  # type: ignore[index]
    keys = {artifact["key"] for artifact in ask(deployed, "artifacts")}
    assert {"reproduce-digits-table", "reproduce-digits-report"} <= keys
    wait_until(lambda: "g4-c2 epoch 1 of 1" in logged(deployed, run["id"]), 30)


def logged(workspace: Workspace, run: object) -> set[str]:
    lines = ask(workspace, "logs", logs={"flow_run_id": {"any_": [run]}}, limit=200)
    return {str(line["message"]) for line in lines}


@pytest.mark.parametrize(
    ("file", "entrypoints"),
    [
        ("prefect.yaml", ["flows/pipeline.py:reproduce", "flows/sweep.py:sweep"]),
        ("prefect-clone.yaml", ["flows/pipeline.py:reproduce", "flows/sweep.py:sweep"]),
        ("prefect-kubernetes.yaml", ["flows/pipeline.py:reproduce", "flows/sweep.py:sweep"]),
        ("prefect-device.yaml", ["flows.benchmark_device.benchmark_device"]),
    ],
)
def test_the_deployment_names_no_machine(checkout: Path, file: str, entrypoints: list[str]) -> None:
    text = (checkout / file).read_text()
    deployments = YAML(typ="safe", pure=True).load(text)["deployments"]
    assert [deployment["entrypoint"] for deployment in deployments] == entrypoints
    assert ("{{ checkout.stdout }}" in text) == (file == "prefect.yaml")
    assert str(checkout) not in text


def test_the_deployments_on_kubernetes_are_those_of_a_checkout_elsewhere(checkout: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    local, kubernetes = (
        yaml.load((checkout / name).read_text())["deployments"] for name in ("prefect.yaml", "prefect-kubernetes.yaml")
    )
    elsewhere = {"name": "kubernetes", "work_pool": {"name": "condensenet-kubernetes"}}
    assert kubernetes == [{**deployment, **elsewhere} for deployment in local]
    template = json.loads((checkout / "cluster" / "kubernetes" / "prefect-job-template.json").read_text())
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (mounted,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "workspace")
    (step,) = yaml.load((checkout / "prefect-kubernetes.yaml").read_text())["pull"]
    assert step["prefect.deployments.steps.set_working_directory"]["directory"] == mounted["mountPath"]


@pytest.fixture
def cloned(served_stub: Workspace, tmp_path: Path) -> Workspace:
    """A checkout whose commit has deployments in clones, and a DVC remote; workers in it have no compiler."""
    served_stub.dvc("remote", "add", "--default", "store", str(tmp_path / "remote"))
    (served_stub.path / "slow").write_text("10\n")
    served_stub.commit("Name a remote")
    commit = served_stub.run("git", "rev-parse", "HEAD").stdout.strip()
    served_stub.run(*PREFECT, "work-pool", "create", "condensenet", "--type", "process", "--overwrite")
    named = served_stub.with_variables(CONDENSENET_REPOSITORY=f"file://{served_stub.path}", CONDENSENET_COMMIT=commit)
    named.run(*PREFECT, "deploy", "--all", "--prefect-file", "prefect-clone.yaml")
    (served_stub.path / "params.yaml").write_text("not what was committed\n")
    return served_stub.with_variables(CC="false")  # compiling is not what is tested, and takes a minute


def trained(workspace: Workspace, run: object) -> set[str]:
    return {line.partition(" ")[0] for line in logged(workspace, run) if line.endswith("epoch 1 of 1")}


def test_a_clone_of_a_commit_runs_and_leaves_its_results_in_the_remote(cloned: Workspace) -> None:
    """Twice, each in a workspace of its own: the second takes everything from the remote."""
    worker = cloned.start(*PREFECT, "worker", "start", "--pool", "condensenet")
    try:
        made = []
        for _ in range(2):
            one = ("--param", 'settings=["g4-c4"]', "--watch", "--watch-timeout", "240")
            cloned.run(*PREFECT, "deployment", "run", "reproduce/clone", *one)
            (run,) = ask(cloned, "flow_runs", sort="START_TIME_DESC", limit=1)
            assert run["state_type"] == "COMPLETED"
            assert run["name"] == "digits · g4-c4"
            made.append(trained(cloned, run["id"]))
    finally:
        end_group(worker)
    assert made == [{"g4-c4"}, set()]


def test_workers_that_share_nothing_but_the_remote_share_a_sweep(cloned: Workspace) -> None:
    """A point for each of two workers, which take one run at a time; a run of the whole sweep then trains none."""
    sweep = (*PREFECT, "deployment", "run", "sweep/clone", "--param", 'grid={"model.groups_1x1": [2, 4]}')
    points = ("g2", "g4")
    workers = [cloned.start(*PREFECT, "worker", "start", "--pool", "condensenet", "--limit", "1") for _ in points]
    try:
        for point in points:
            cloned.run(*sweep, "--param", f'points=["{point}"]')
        wait_until(lambda: len(ended(cloned)) == 2, 240)
        cloned.run(*sweep, "--watch", "--watch-timeout", "240")
        wait_until(lambda: len(ended(cloned)) == 3, 30)
    finally:
        for worker in workers:
            end_group(worker)
    *shares, whole = ended(cloned)
    assert {run["state_type"] for run in (*shares, whole)} == {"COMPLETED"}
    assert {run["name"] for run in shares} == {"digits · groups_1x1 · g2", "digits · groups_1x1 · g4"}
    assert max(str(run["start_time"]) for run in shares) < min(str(run["end_time"]) for run in shares)  # at once
    assert sorted(sorted(trained(cloned, run["id"])) for run in shares) == [["g2"], ["g4"]]
    assert trained(cloned, whole["id"]) == set()


def ended(workspace: Workspace) -> list[dict[str, object]]:
    """The runs of ``sweep/clone`` that have ended, in the order of their start."""
    deployed = {"flows": {"name": {"any_": ["sweep"]}}, "deployments": {"name": {"any_": ["clone"]}}}
    runs = ask(workspace, "flow_runs", sort="START_TIME_ASC", **deployed)
    return [run for run in runs if run["end_time"]]
