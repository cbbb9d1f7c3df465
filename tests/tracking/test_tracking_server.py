"""A real tracking server on loopback that is killed in mid-run and comes back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracking_server import Server

from tasks import outputs, params, paths, tracking
from tasks.tracking import reconcile, snapshots


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_what_a_killed_server_missed_arrives_when_it_is_back(
    server: Server,
    tmp_path: Path,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "params.yaml").write_text((checkout / "params.yaml").read_text())
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(reconcile, "_memory", reconcile._Memory())
    params_in_use = params.load()
    training = workspace / "training"
    training.mkdir()

    def train(epochs: int) -> None:
        rows = [{"epoch": epoch, "train_loss": 1 / epoch, "seconds": 1.0} for epoch in range(1, epochs + 1)]
        outputs.write_csv(training / paths.HISTORY, rows)
        tracking.upload()

    run = tracking.start_execution(training, params_in_use, params_in_use.setting("g4-c4"))
    train(1)
    assert run["mlflow_run_id"] is not None
    assert snapshots.completed() == []

    server.kill()
    began = time.monotonic()
    train(2)
    train(3)
    tracking.record(run, "train", artifacts=[(training / paths.HISTORY, "train")], finished=True)
    tracking.record(run, "convert", artifacts=[(workspace / "params.yaml", "convert")])
    assert time.monotonic() - began < 30
    (line,) = capsys.readouterr().out.splitlines()
    assert server.uri in line
    assert "python -m tasks.track" in line
    assert len(snapshots.completed()) == 2

    track = [sys.executable, "-m", "tasks.track"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    away = subprocess.run(track, env=environment, capture_output=True, text=True, timeout=180)
    assert away.returncode == 1
    (error,) = away.stderr.splitlines()
    assert error.startswith(f"error: {server.uri} is unavailable (")

    server.start()
    back = subprocess.run(track, env=environment, capture_output=True, text=True, timeout=180)
    assert (back.returncode, back.stderr) == (0, "")
    assert back.stdout.splitlines() == [f"3 snapshots uploaded to {server.uri}"]

    client = mlflow.MlflowClient(server.uri)
    found = client.get_run(run["mlflow_run_id"])
    assert found.info.status == "FINISHED"
    points = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert [file.path for file in client.list_artifacts(found.info.run_id, "convert")] == ["convert/params.yaml"]
    names = [each.info.run_name for each in client.search_runs([found.info.experiment_id])]
    assert sorted(names) == sorted(["all settings", run["setting"]])
