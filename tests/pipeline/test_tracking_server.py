"""A real tracking server on loopback that is killed in mid-run and comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import params, tracking
from tasks.tracking import delivery, outbox

STARTUP_S = 180.0  # 10 s on a machine with nothing else to do


class Server:
    """``mlflow server`` as a process group of its own, on a port that stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options, *store, *artifacts],
                env={**environment, **quiet},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await_health()

    def _await_health(self) -> None:
        deadline = time.monotonic() + STARTUP_S
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + 10
        while tracking.server.answers(self.uri):  # its worker is a child of it
            assert time.monotonic() < deadline
            time.sleep(0.05)


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
    monkeypatch.setattr(delivery, "_Process", type("_Process", (delivery._Process,), {}))
    in_force = params.load()

    run = tracking.start_execution(in_force, in_force.setting("g4-c4"))
    tracking.record(run, "train", metrics={"train_loss": 1.0}, step=1)
    assert run["mlflow_run_id"] is not None
    assert outbox.pending() == []

    server.kill()
    began = time.monotonic()
    for epoch in (2, 3):
        tracking.record(run, "train", metrics={"train_loss": 1 / epoch}, step=epoch, finished=epoch == 3)
    tracking.record(run, "convert", artifacts=[(workspace / "params.yaml", "convert")])
    assert time.monotonic() - began < 30
    (line,) = capsys.readouterr().out.splitlines()
    assert server.uri in line
    assert "python -m tasks.track" in line
    assert len(outbox.pending()) == 3

    track = [sys.executable, "-m", "tasks.track"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    away = subprocess.run(track, env=environment, capture_output=True, text=True, timeout=180)
    assert away.returncode == 1
    (error,) = away.stderr.splitlines()
    assert error.startswith(f"error: {server.uri} does not answer")

    server.start()
    back = subprocess.run(track, env=environment, capture_output=True, text=True, timeout=180)
    assert (back.returncode, back.stderr) == (0, "")
    assert back.stdout.splitlines() == [f"3 records delivered to {server.uri}"]

    client = mlflow.MlflowClient(server.uri)
    found = client.get_run(run["mlflow_run_id"])
    assert found.info.status == "FINISHED"
    points = client.get_metric_history(found.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [file.path for file in client.list_artifacts(found.info.run_id, "convert")] == ["convert/params.yaml"]
    assert len(client.search_runs([found.info.experiment_id])) == 1
