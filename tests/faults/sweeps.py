"""Sweeps on a cluster of their own, run as an operator runs them: a run that ends without success is started again.

Whoever disturbs them compares what they made with a sweep that nobody disturbed.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
import torch

from cluster.settings import FOLDER, USER, Cluster, Passwords, Ports
from tests.processes import command_line, runs
from tests.workspaces import Workspace, copy_checkout, free_ports

CHECKOUT = Path(__file__).resolve().parents[2]
OVERRIDES = {"train.epochs": 12, "train.checkpoint_every_steps": 5, "ray.num_workers": 1}
TARGETS = ("raylet", "gcs_server", "worker", "mlflow", "prefect", "flow")  # what can be killed
LIMIT_S = 1800.0
LOST_S = 30.0  # a run that is said to go on, though it has no process
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
FOREIGN = ("PREFECT_", "MLFLOW_", "RAY_", "AWS_", "CONDENSENET_", "CLUSTER_", "DVC_")


@dataclass
class Sweep:
    """The deployment ``sweep/local`` of ``workspace``, run under the study ``name`` as often as it takes.

    ``points`` are those of the ``grid`` that are possible.
    """

    workspace: Workspace
    cluster: Cluster
    name: str
    grid: Mapping[str, Sequence[Any]]
    points: Sequence[str]
    attempts: int  # at most
    ended: list[str] = field(default_factory=list)  # how the runs before the newest have ended
    finished: dict[str, tuple[str, int]] = field(default_factory=dict)  # run.json and when the last output was written
    made_again: set[str] = field(default_factory=set)
    _runs: int = 0
    _without_process_since: float | None = None

    @property
    def out(self) -> Path:
        return self.workspace.path / "out" / self.name

    def start(self) -> None:
        assert self._runs < self.attempts, f"too many runs have failed: {self.ended}"
        given = {"grid": self.grid, "study": "digits", "name": self.name, "overrides": OVERRIDES, "at_once": 2}
        options = [f"--param={key}={json.dumps(value)}" for key, value in given.items()]
        command = (sys.executable, "-m", "prefect", "--no-prompt", "deployment", "run", "sweep/local", *options)
        wait_for(lambda: self.workspace.run(*command, check=False).returncode == 0, "the server takes no run")
        self._runs, self._without_process_since = self._runs + 1, None
        say(f"{self.name}: run {self._runs} is on the schedule")

    def is_done(self) -> bool:
        """Whether the newest run has succeeded; one that has ended otherwise is followed by another."""
        state = newest_run(self.cluster)
        if state is None:  # the server is away
            return False
        if state["state_type"] == "COMPLETED":
            return True
        if state["state_type"] in ENDED or self._is_lost(state["state_type"]):
            self.ended.append(state["state_type"])
            say(f"{self.name}: run {self._runs} is {state['state_type']}: {state['state'].get('message')}"[:300])
            self.start()
        return False

    def is_at_work(self) -> bool:
        """Whether it has stages running."""
        run = run_process(self.workspace)
        return any("flows.supervise" in command_line(child) for child in children(run))

    def _is_lost(self, state: str) -> bool:
        if state != "RUNNING" or run_process(self.workspace):
            self._without_process_since = None
            return False
        self._without_process_since = self._without_process_since or time.monotonic()
        return time.monotonic() - self._without_process_since > LOST_S

    def look_at_finished(self) -> None:
        """Note which points are finished, and which of those that were finished before are no longer as they were."""
        for point in self.points:
            last = self.out / "benchmark" / point / "latency.json"
            if last.exists():
                now = (self.out / "train" / point / "run.json").read_text(), last.stat().st_mtime_ns
                if self.finished.setdefault(point, now) != now:
                    self.made_again.add(point)


def kill(target: str, sweep: Sweep) -> bool:
    """Kill one of ``TARGETS`` with SIGKILL; False if it does not run."""
    victim = find(target, sweep)
    with suppress(psutil.NoSuchProcess):
        if victim is not None:
            victim.kill()
            return True
    return False


def find(target: str, sweep: Sweep) -> psutil.Process | None:
    if target == "flow":
        return run_process(sweep.workspace)
    if target in ("raylet", "gcs_server"):
        ray = service(sweep.cluster, "ray")
        return next((child for child in children(ray) if child.name() == target), None)
    return service(sweep.cluster, target)


def service(cluster: Cluster, name: str) -> psutil.Process | None:
    with suppress(FileNotFoundError, psutil.NoSuchProcess, ValueError):
        return psutil.Process(json.loads((cluster.folder / f"{name}.pid").read_text())[0])
    return None


def children(process: psutil.Process | None) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True) if process else []
    return []


def run_process(workspace: Workspace) -> psutil.Process | None:
    """The process that a Prefect worker has started for a run."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get(FOLDER) == workspace.variables[FOLDER]
            if ours and any(re.fullmatch(r"prefect\.(flow_)?engine", each) for each in process.cmdline()):
                return process
    return None


def newest_run(cluster: Cluster) -> dict[str, Any] | None:
    """The flow run that was made last; None if the server does not answer."""
    login = base64.b64encode(f"{USER}:{cluster.passwords.prefect}".encode()).decode()
    request = urllib.request.Request(
        f"{cluster.prefect_url}/flow_runs/filter",
        data=json.dumps({"sort": "EXPECTED_START_TIME_DESC", "limit": 1}).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Basic {login}"},
    )
    with suppress(OSError), urllib.request.urlopen(request, timeout=30) as response:
        run: dict[str, Any] = json.load(response)[0]
        return run
    return None


def differences(calm: Sweep, wild: Sweep) -> list[str]:
    """Where the two have made something else: weights to the bit, histories without their times, costs, errors, and
    the table without latencies."""
    made = sorted(path.name for path in (wild.out / "train").iterdir())
    found = [] if made == sorted(wild.points) else [f"the points are {made}"]
    for point in wild.points:
        found += [f"{read.__name__} of {point}" for read in READERS if read(calm.out, point) != read(wild.out, point)]
    if table(calm.out) != table(wild.out) or len(table(wild.out)) != len(wild.points):
        found.append("the table")
    return found


def weights(out: Path, point: str) -> dict[str, bytes]:
    content = torch.load(out / "train" / point / "model.pt", weights_only=True)
    return {name: value.numpy().tobytes() for name, value in content["state_dict"].items()}


def history(out: Path, point: str) -> list[dict[str, str]]:
    return _rows(out / "train" / point / "history.csv", "seconds")


def cost(out: Path, point: str) -> str:
    return (out / "convert" / point / "cost.json").read_text()


def errors(out: Path, point: str) -> str:
    return (out / "evaluate" / point / "metrics.json").read_text()


READERS = (weights, history, cost, errors)


def table(out: Path) -> list[dict[str, str]]:
    return _rows(out / "sweep.csv", "latency_ms")


def _rows(path: Path, without: str) -> list[dict[str, str]]:
    with path.open() as file:
        return [{name: value for name, value in row.items() if name != without} for row in csv.DictReader(file)]


def missing_in_mlflow(sweep: Sweep) -> list[str]:
    """What is wrong there: each point has one finished run with all figures, under the run of the sweep."""
    sweep.workspace.run(sys.executable, "-m", "tasks.track")
    os.environ.update(sweep.cluster.client_variables)
    from mlflow import MlflowClient

    client = MlflowClient(sweep.cluster.mlflow_url)
    experiment = client.get_experiment_by_name(sweep.name)
    if experiment is None:
        return ["the experiment"]
    runs_there = client.search_runs([experiment.experiment_id])
    names = sorted(run.info.run_name for run in runs_there)
    found = [] if names == sorted(["sweep", *sweep.points]) else [f"the runs are {names}"]
    parents = {run.info.run_id for run in runs_there if run.info.run_name == "sweep"}
    for run in runs_there:
        name = run.info.run_name
        found += [] if run.info.status == "FINISHED" else [f"{name} is {run.info.status}"]
        if name != "sweep":
            figures = {"test/error_pct", "cost/macs", "latency/ms"} - set(run.data.metrics)
            found += [f"{figure} of {name}" for figure in sorted(figures)]
            found += [] if run.data.tags.get("mlflow.parentRunId") in parents else [f"the parent of {name}"]
    return found


@contextmanager
def cluster_of_its_own(disk_mb: int | None = None) -> Iterator[tuple[Workspace, Cluster]]:
    """A copy of the checkout and all services for it; at the end they are told to go.

    With ``disk_mb`` the copy is on a disk of that size in memory, which needs root.
    """
    root = Path(tempfile.mkdtemp(prefix="cn-kills-"))
    root.chmod(0o711)  # PostgreSQL's account passes through
    with _disk(root / "checkout", disk_mb):
        workspace = copy_checkout(CHECKOUT, root / "checkout")
        for library in CHECKOUT.glob("condensenet/**/*.so"):
            shutil.copy2(library, workspace.path / library.relative_to(CHECKOUT))
        ports = Ports(*free_ports(len(fields(Ports))))
        variables = {f"CLUSTER_{name.upper()}_PORT": str(port) for name, port in asdict(ports).items()}
        for name in [name for name in os.environ if name.startswith(FOREIGN)]:
            del os.environ[name]
        own = {**variables, FOLDER: str(root / "cluster"), "PYTHONPATH": str(workspace.path)}
        started = workspace.with_variables(**own)
        try:
            started.run(sys.executable, "-m", "cluster.local", "up", timeout=900)
            cluster = Cluster(workspace.path, root / "cluster", ports, Passwords.of(root / "cluster"))
            yield started.with_variables(**cluster.client_variables), cluster
        finally:
            started.run(sys.executable, "-m", "cluster.local", "down", timeout=300)
        assert_nothing_runs(started)
    if "KEEP" in os.environ:
        say(f"kept: {root}")
    else:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _disk(folder: Path, size_mb: int | None) -> Iterator[None]:
    folder.mkdir()
    if size_mb is None:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_nothing_runs(workspace: Workspace) -> None:
    def left() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if process.pid != os.getpid() and _works_in(process)]

    def _works_in(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return runs(process) and process.environ().get(FOLDER) == workspace.variables[FOLDER]
        return False

    deadline = time.monotonic() + 90  # Ray's agents wait a minute for a head that was killed
    while left() and time.monotonic() < deadline:
        time.sleep(1)
    assert not left(), [process.cmdline() for process in left()]


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(1)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
