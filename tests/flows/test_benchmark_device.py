"""A device that is not this machine: a worker on its own pool, in an environment without torch, Ray and DVC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exported_study import SETTING, write_study
from tracking_server import Server
from workspaces import Workspace, ask, end_group

from flows import benchmark_device, exported_run
from tasks import export, paths, tracking
from tasks.errors import UserError
from tasks.tracking import reconcile

PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
ABSENT = ("torch", "torchvision", "ray", "dvc", "onnx", "onnxscript", "sklearn")
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def wheel(stub_origin: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel for every machine, built as docs/OPERATORS.md says but without fetching what builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = Workspace(shutil.copytree(stub_origin.path, folder / "source"), {"CONDENSENET_KERNELS": "off"})
    source.run(sys.executable, "-c", f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})")
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a Python with the package as the wheel has it, and without what a device lacks."""
    folder = tmp_path_factory.mktemp("light")
    zipfile.ZipFile(wheel).extractall(folder)
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {"PYTHONPATH": str(folder)}


def test_the_wheel_is_for_every_machine(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def runs(server: Server, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Ids of runs on the server: one with an exported model, one without, one that is not finished."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("workspace"))
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setattr(reconcile, "_memory", reconcile._Memory())
        params = write_study(checkout)
        setting = params.settings[SETTING]
        started = {}
        for name in ("exported", "bare", "running"):
            Path(name).mkdir()  # of the training
            started[name] = tracking.start_execution(Path(name), params, setting)
            if name != "running":
                tracking.record(started[name], "train", finished=True)
        run = started["exported"]
        export.export(params, setting, run)
        folder = params.paths.setting("export", SETTING)
        if not (folder / paths.FORMS / "native.onnx").exists():  # our operators were not built here
            (folder / paths.FORMS / "native.onnx").write_bytes(b"with operators that are not here")
        tracking.record(run, "export")
        yield {name: run["mlflow_run_id"] for name, run in started.items()}


def test_the_light_environment_has_no_torch(light: dict[str, str], tmp_path: Path) -> None:
    code = "import importlib.util, prefect, mlflow, onnxruntime\ntry: import torch\nexcept ImportError: print('none')"
    code += "\nimport condensenet.deploy.latency.measure; print(condensenet.deploy.latency.measure.__file__)"
    environment = {**os.environ, **light}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"none\n{light['PYTHONPATH']}/condensenet/deploy/latency/measure.py\n", done.stderr


@pytest.fixture
def device(served_stub: Workspace, light: dict[str, str], server: Server, tmp_path: Path) -> Iterator[Workspace]:
    """The workspace from which the deployment for a device called loop-1 was made; a worker is on its pool."""
    desk = served_stub.with_variables(DEVICE="loop-1")
    desk.run(*PREFECT, "work-pool", "create", "loop-1", "--type", "process", "--overwrite")
    desk.run(*PREFECT, "deploy", "--all", "--prefect-file", "prefect-device.yaml")
    (tmp_path / "device").mkdir()
    there = Workspace(tmp_path / "device", {**desk.variables, **light, "MLFLOW_TRACKING_URI": server.uri})
    worker = there.start(*PREFECT, "worker", "start", "--pool", "loop-1", "--limit", "1")
    try:
        yield desk
    finally:
        end_group(worker)


def test_a_worker_on_the_device_adds_latency_and_hardware_to_the_run(
    device: Workspace, runs: dict[str, str], server: Server
) -> None:
    import mlflow

    def run_on_device(run_id: str) -> tuple[int, str]:
        """The exit status and the message of the flow run's last state."""
        options = ["--watch", "--watch-timeout", "240", "--param", f"run_id={run_id}", "--param", "threads=[1]"]
        files = ["--param", 'files=["forms/plain.onnx", "forms/native.onnx"]']
        done = device.run(*PREFECT, "deployment", "run", "benchmark-device/loop-1", *options, *files, check=False)
        (run,) = ask(device, "flow_runs", sort="START_TIME_DESC", limit=1)
        return done.returncode, str(run["state"]["message"])  # type: ignore[index]

    status, message = run_on_device(runs["exported"])
    assert status == 0, message

    client = mlflow.MlflowClient(server.uri)
    run = client.get_run(runs["exported"])
    report = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/benchmark/loop-1.json")
    assert {row["model"] for row in report["rows"]} == {"model", "plain"}
    assert "cannot be loaded" in report["skipped"]["native"]  # the wheel has no operators
    (row,) = (row for row in report["rows"] if row["model"] == "model")
    assert run.data.metrics["latency/ms_loop-1"] == row["median_ms"] > 0
    assert run.data.metrics["latency/ratio_loop-1"] == row["ratio"] > 0
    assert {"latency/ms_plain_loop-1", "latency/ratio_plain_loop-1"} <= run.data.metrics.keys()
    assert report["hardware"]["architecture"] in run.data.tags["device.loop-1"]
    assert report["protocol"]["yardstick"] == "mobilenet_v1"
    assert row["yardstick_median_ms"] > 0
    assert report["files"]["model"]["metadata"]["setting"] == SETTING
    assert run.info.status == "FINISHED"

    status, message = run_on_device(runs["running"])
    assert status != 0
    assert message == f"run_id='{runs['running']}' is RUNNING: only a FINISHED run can be timed"


def refusal(run_id: str, uri: str | None) -> str:
    with pytest.raises(UserError) as caught:
        exported_run.ExportedRun(run_id, uri)
    (line,) = str(caught.value).splitlines()
    return line


def test_runs_that_cannot_be_timed_are_refused_in_one_line(runs: dict[str, str], server: Server) -> None:
    assert "has no model: it must be a setting's, after dvc repro export" in refusal(runs["bare"], server.uri)
    assert "is RUNNING: only a FINISHED run can be timed" in refusal(runs["running"], server.uri)
    assert refusal("0" * 32, server.uri).startswith(f"cannot read run_id='{'0' * 32}' from {server.uri}: ")
    assert refusal("../0", server.uri).startswith("cannot read run_id='../0' from")


def test_a_server_that_does_not_answer_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("0", "http://user:secret@127.0.0.1:9") == "tracking_uri='http://***@127.0.0.1:9' does not answer"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert refusal("0", None).startswith("tracking_uri is missing: pass it, or set MLFLOW_TRACKING_URI")


@pytest.mark.parametrize("uri", ["banana", "sqlite:///x.db", "ftp://x", "http://[::1", "http://x:99999", "http://"])
def test_a_tracking_uri_that_is_no_servers_is_refused(uri: str) -> None:
    assert refusal("0", uri) == f"tracking_uri={uri!r} is not allowed: a server's address, http://host:port"


def test_an_artifact_that_the_run_lacks_is_one_line(runs: dict[str, str], server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download .*forms/int8\.onnx from") as caught:
        exported_run.ExportedRun(runs["exported"], server.uri).download(["forms/int8.onnx"], tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["", "Pi5", "pi 5", "pi/5", "-pi", "pi_5", "plain", "x" * 41])
def test_a_device_that_cannot_be_part_of_a_metrics_name_is_refused(device: str) -> None:
    with pytest.raises(UserError, match="lower-case letters, digits and dashes"):
        benchmark_device.check_names(device, [])


@pytest.mark.parametrize("files", [["../x.onnx"], ["/x.onnx"], ["x.pt"], ["model.onnx"], ["a/x.onnx", "b/x.onnx"]])
def test_files_that_cannot_be_artifacts_or_share_a_name_are_refused(files: list[str]) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        benchmark_device.check_names("pi-5", files)
    benchmark_device.check_names("pi-5", ["forms/plain.onnx", "forms/native.onnx"])


def test_metrics_are_named_by_form_device_and_case() -> None:
    def row(model: str, batch: int, threads: int) -> dict[str, Any]:
        return {"model": model, "batch": batch, "threads": threads, "median_ms": 2.0, "ratio": 0.5}

    rows = [row("model", 1, 1), row("model", 16, 2), row("plain", 1, 1)]
    metrics = exported_run.device_metrics("pi-5", rows)
    assert [name for name in metrics if "/ms" in name] == [
        "latency/ms_pi-5",
        "latency/ms_pi-5_b16_t2",
        "latency/ms_plain_pi-5",
    ]
    assert [name for name in metrics if "/ratio" in name] == [
        "latency/ratio_pi-5",
        "latency/ratio_pi-5_b16_t2",
        "latency/ratio_plain_pi-5",
    ]


def test_logging_a_measurement_is_retried_and_then_fails(
    monkeypatch: pytest.MonkeyPatch, runs: dict[str, str], server: Server
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(exported_run.time, "sleep", pauses.append)
    run = exported_run.ExportedRun(runs["exported"], server.uri)
    run.run_id = "0" * 32  # deleted meanwhile
    report = {"rows": [], "measured_at_ms": 0}
    with pytest.raises(exported_run.NotLogged, match="did not accept the measurement"):
        run.add("pi-5", report)
    assert len(pauses) == exported_run.ATTEMPTS - 1


@pytest.mark.parametrize(
    "module", ["condensenet.deploy.latency.measure", "condensenet.deploy.latency.time_files", "flows.benchmark_device"]
)
def test_what_runs_on_a_device_imports_nothing_that_it_lacks(
    module: str, light: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", f"import {module}"]
    assert subprocess.run(command, env={**os.environ, **light}, cwd=tmp_path, check=False).returncode == 0


def test_by_hand_one_file_is_enough(light: dict[str, str], checkout: Path, tmp_path: Path) -> None:
    from condensenet.deploy.latency.mobilenet import write_mobilenet_v1

    path = write_mobilenet_v1(tmp_path / "file.onnx", (1, 8, 8), 10)
    command = [sys.executable, "-m", "condensenet.deploy.latency", str(path), "--threads", "1"]
    done = subprocess.run(command, env={**os.environ, **light}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert (row["model"], row["threads"], row["batch"]) == (str(path), 1, 1)
    assert 0.5 < row["ratio"] < 2  # the yardstick in turn with itself
    assert report["versions"]["onnxruntime"] in done.stderr
    missing = subprocess.run([*command[:3], "no.onnx"], env={**os.environ, **light}, capture_output=True, text=True)
    assert (missing.returncode, missing.stdout, missing.stderr) == (1, "", "error: no.onnx is missing\n")
