"""The whole pipeline where nothing is as usual: no network, the locale C, odd letters in the path, secrets around."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import alone
import pytest
from ruamel.yaml import YAML
from workspaces import Workspace, copy_checkout

SETTING = "g2-c2"
MARK = "m4rk3d"  # in every secret
SECRETS = {
    "AWS_ACCESS_KEY_ID": f"{MARK}-id",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-aws",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}-mlflow",
    "PREFECT_API_KEY": f"{MARK}-prefect",
}
QUIET = ("DO_NOT_TRACK", "MLFLOW_DISABLE_", "ORT_DISABLE_", "PREFECT_SERVER_ANALYTICS", "RAY_USAGE_STATS", "CI")


@dataclass(frozen=True)
class Finished:
    """What the flow left, and what it and a stage after it printed."""

    workspace: Workspace
    folder: Path  # the workspace's, with all else that was written
    packets: list[str]
    printed: str


@pytest.fixture(scope="module")
def finished(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    if reason := alone.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("alone")
    surroundings = {"LC_ALL": "C", "PYTHONUTF8": "0", "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    for name in ("HOME", "TMPDIR"):
        Path(surroundings[name]).mkdir()
    workspace = copy_checkout(checkout, folder / "ein Ordner für 北京")
    params = workspace.read("params.yaml")
    assert isinstance(params, dict)
    params["train"]["epochs"] = params["ray"]["num_workers"] = 1
    params["settings"] = {SETTING: params["settings"][SETTING]}
    YAML().dump(params, workspace.path / "params.yaml")
    workspace.commit("Take one setting")
    printed = run(workspace, folder / "packets", {**surroundings, **SECRETS}, "flows.reproduce")
    printed += run(
        workspace, folder / "more-packets", {**surroundings, **SECRETS, **turkish(folder)}, "tasks.evaluate", SETTING
    )
    packets = [line for name in ("packets", "more-packets") for line in (folder / name).read_text().splitlines()]
    return Finished(workspace, folder, packets, printed)


def run(workspace: Workspace, packets: Path, variables: dict[str, str], *module: str) -> str:
    """As a stranger would, without the variables that `make` sets; returns all that was printed."""
    inherited = {name: value for name, value in workspace.environment.items() if not name.startswith(QUIET)}
    command = [*alone.inside(packets), sys.executable, "-m", *module]
    done = subprocess.run(
        command,
        cwd=workspace.path,
        env={**inherited, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
        check=False,
    )
    printed = done.stdout.decode()
    assert done.returncode == 0, printed
    return printed


def turkish(folder: Path) -> dict[str, str]:
    """Where letters are made small and capital by other rules, in C libraries if not in Python; MLflow out of reach."""
    away = {"MLFLOW_TRACKING_URI": f"http://{MARK}-user:{MARK}-password@127.0.0.1:9"}
    made = subprocess.run(["localedef", "-i", "tr_TR", "-f", "UTF-8", folder / "tr_TR.utf8"], check=False)
    return {**away, "LOCPATH": str(folder), "LC_ALL": "tr_TR.UTF-8"} if made.returncode == 0 else away


def test_it_ends_with_the_table_and_the_runs(finished: Finished) -> None:
    from mlflow import MlflowClient

    out = finished.workspace.path / "out/digits"
    assert (out / "report/report.html").is_file()
    assert f"\n{SETTING} " in finished.printed
    client = MlflowClient(f"sqlite:///{finished.workspace.path}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys((SETTING, "all settings"), "FINISHED")
    assert "127.0.0.1:9 is unavailable" in finished.printed
    assert len(list((finished.workspace.path / "state/tracking").glob("*-evaluate-*"))) == 1


def test_no_packet_is_sent_beyond_the_loopback(finished: Finished) -> None:
    host, port = alone.PROBE
    assert [packet.split()[:2] for packet in finished.packets] == 2 * [[host, str(port)]]
    assert not (finished.folder / "home/.cache/Microsoft").exists()  # what ONNX Runtime would send later


def test_no_secret_is_written_or_printed(finished: Finished) -> None:
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    holding = {word: [path.name for path in files if word.encode() in path.read_bytes()] for word in (MARK, SETTING)}
    assert {"mlflow.db", "prefect.db", "dvc.lock", "report.html", "run.json"} <= set(holding[SETTING])
    assert holding[MARK] == ["test_alone.py"]
    assert MARK not in finished.printed
