"""A sweep whose services are killed at random moments: `make kills-test`, or with another seed

    python -m tests.faults.random_kills [SEED]

It runs 3 x 3 points, one of them impossible, on a cluster of its own (`cluster.local`): once in peace, once while Ray's
raylet and head, the Prefect worker, both servers and the flow are killed with SIGKILL in turn. As an operator would, it
starts the deployment again when a run has ended without success. Then it compares: a point that was finished is not
made again, and all results are those of the undisturbed sweep. About 15 minutes on two cores.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
import torch

from cluster.settings import FOLDER, USER, Cluster, Passwords, Ports
from tests.workspaces import Workspace, copy_checkout, free_ports

CHECKOUT = Path(__file__).resolve().parents[2]
GRID = {"model.condensation_factor": [1, 2, 8], "model.growth_rates": [[4, 8, 8], [8, 8, 8], [8, 16, 16]]}
POINTS = [f"c{c}-growth_rates{'-'.join(map(str, rates))}" for c in (1, 2, 8) for rates in GRID["model.growth_rates"]]
IMPOSSIBLE = "c8-growth_rates4-8-8"  # 8 does not divide the 12 inputs of its second layer
OVERRIDES = {"train.epochs": 12, "train.checkpoint_every_steps": 5, "ray.num_workers": 1}
TARGETS = ("raylet", "gcs_server", "worker", "mlflow", "prefect", "flow")
MOMENT_S = (2.0, 30.0)  # after the sweep is at work again
LIMIT_S = 1800.0
LOST_S = 30.0  # a run that is said to go on, though it has no process
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
FOREIGN = ("PREFECT_", "MLFLOW_", "RAY_", "AWS_", "CONDENSENET_", "CLUSTER_", "DVC_")


@dataclass
class Sweep:
    """The deployment ``sweep/local`` of ``workspace``, run under the study ``name`` as often as it takes."""

    workspace: Workspace
    cluster: Cluster
    name: str
    attempts: int  # at most
    runs: int = 0
    finished: dict[str, tuple[str, int]] = field(default_factory=dict)  # run.json and when the last output was written
    _without_process_since: float | None = None

    @property
    def out(self) -> Path:
        return self.workspace.path / "out" / self.name

    def start(self) -> None:
        assert self.runs < self.attempts, "too many runs have failed"
        given = {"grid": GRID, "study": "digits", "name": self.name, "overrides": OVERRIDES, "at_once": 2}
        options = [f"--param={key}={json.dumps(value)}" for key, value in given.items()]
        command = (sys.executable, "-m", "prefect", "--no-prompt", "deployment", "run", "sweep/local", *options)
        wait_for(lambda: self.workspace.run(*command, check=False).returncode == 0, "the server takes no run")
        self.runs, self._without_process_since = self.runs + 1, None
        say(f"{self.name}: run {self.runs} is on the schedule")

    def is_done(self) -> bool:
        """Whether the newest run has succeeded; one that has ended otherwise is followed by another."""
        state = newest_run(self.cluster)
        if state is None:  # the server is away
            return False
        if state["state_type"] == "COMPLETED":
            return True
        if state["state_type"] in ENDED or self._is_lost(state["state_type"]):
            say(f"{self.name}: run {self.runs} is {state['state_type']}: {state['state'].get('message')}"[:200])
            self.start()
        return False

    def _is_lost(self, state: str) -> bool:
        if state != "RUNNING" or flow_process(self.workspace):
            self._without_process_since = None
            return False
        self._without_process_since = self._without_process_since or time.monotonic()
        return time.monotonic() - self._without_process_since > LOST_S

    def check_kept(self) -> None:
        """What was finished is as it was."""
        for point in POINTS:
            last = self.out / "benchmark" / point / "latency.json"
            if last.exists():
                now = (self.out / "train" / point / "run.json").read_text(), last.stat().st_mtime_ns
                assert self.finished.setdefault(point, now) == now, f"{point} was finished and made again"


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services end with us
    with cluster_of_its_own() as (workspace, cluster):
        calm, wild = Sweep(workspace, cluster, "calm", 1), Sweep(workspace, cluster, "wild", 3 * len(TARGETS))
        began = time.monotonic()
        calm.start()
        wait_for(calm.is_done, "the undisturbed sweep has not ended")
        say(f"calm: done in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        disturb(wild, random.Random(seed))
        wait_for(wild.is_done, "the disturbed sweep has not ended")
        wild.check_kept()
        say(f"wild: done in {time.monotonic() - began:.0f} s and {wild.runs} runs")
        compare(calm, wild)
        check_tracked(wild)
    assert_nothing_runs(workspace)
    say(f"seed {seed}: the results are those of the undisturbed sweep, and no finished point was made again")


def disturb(sweep: Sweep, moments: random.Random) -> None:
    """Kill each target once, in a random order, while the sweep is at work; stops if that is done before."""
    sweep.start()
    for target in moments.sample(TARGETS, len(TARGETS)):
        wait_for(lambda: sweep.is_done() or flow_process(sweep.workspace) is not None, "no run begins")
        until = time.monotonic() + moments.uniform(*MOMENT_S)
        while time.monotonic() < until and not sweep.is_done():
            time.sleep(0.5)
        if sweep.is_done():
            say(f"done before {target} was killed")
            return
        sweep.check_kept()
        victim = find(target, sweep)
        if victim is None:
            say(f"no {target} to kill")
            continue
        victim.kill()
        say(f"killed {target} with {len(sweep.finished)} points finished")


def find(target: str, sweep: Sweep) -> psutil.Process | None:
    if target == "flow":
        return flow_process(sweep.workspace)
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


def flow_process(workspace: Workspace) -> psutil.Process | None:
    """The process that has stages running: what supervises them is its child."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "flows.supervise" in process.cmdline() and process.cwd() == str(workspace.path):
                parent = process.parent()
                if parent is not None and "prefect" in " ".join(parent.cmdline()):
                    return parent
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


def compare(calm: Sweep, wild: Sweep) -> None:
    """Weights to the bit, histories without their times, costs, errors, and the table without latencies."""
    assert sorted(path.name for path in (wild.out / "train").iterdir()) == sorted(set(POINTS) - {IMPOSSIBLE})
    for point in set(POINTS) - {IMPOSSIBLE}:
        for read in (weights, history, lambda out, p: (out / "convert" / p / "cost.json").read_text(), errors):
            assert read(calm.out, point) == read(wild.out, point), point
    assert table(calm.out) == table(wild.out)
    assert len(table(wild.out)) == len(POINTS) - 1


def weights(out: Path, point: str) -> dict[str, bytes]:
    content = torch.load(out / "train" / point / "model.pt", weights_only=True)
    return {name: value.numpy().tobytes() for name, value in content["state_dict"].items()}


def history(out: Path, point: str) -> list[dict[str, str]]:
    return _rows(out / "train" / point / "history.csv", "seconds")


def errors(out: Path, point: str) -> str:
    return (out / "evaluate" / point / "metrics.json").read_text()


def table(out: Path) -> list[dict[str, str]]:
    return _rows(out / "sweep.csv", "latency_ms")


def _rows(path: Path, without: str) -> list[dict[str, str]]:
    with path.open() as file:
        return [{name: value for name, value in row.items() if name != without} for row in csv.DictReader(file)]


def check_tracked(sweep: Sweep) -> None:
    """MLflow has one finished run for each point, with all figures, under the run of the sweep."""
    sweep.workspace.run(sys.executable, "-m", "tasks.track")
    os.environ.update(sweep.cluster.client_variables)
    from mlflow import MlflowClient

    client = MlflowClient(sweep.cluster.mlflow_url)
    experiment = client.get_experiment_by_name(sweep.name)
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"sweep", *set(POINTS) - {IMPOSSIBLE}}
    assert len(client.search_runs([experiment.experiment_id])) == len(runs)
    for name, run in runs.items():
        assert run.info.status == "FINISHED", name
        if name != "sweep":
            assert run.data.tags["mlflow.parentRunId"] == runs["sweep"].info.run_id
            assert {"test_error_pct", "macs", "latency_ms"} <= set(run.data.metrics), name


@contextmanager
def cluster_of_its_own() -> Iterator[tuple[Workspace, Cluster]]:
    """A copy of the checkout and all services for it; at the end they are told to go."""
    root = Path(tempfile.mkdtemp(prefix="cn-kills-"))
    root.chmod(0o711)  # PostgreSQL's account passes through
    workspace = copy_checkout(CHECKOUT, root / "checkout")
    for library in CHECKOUT.glob("condensenet/**/*.so"):
        shutil.copy2(library, workspace.path / library.relative_to(CHECKOUT))
    ports = Ports(*free_ports(len(fields(Ports))))
    variables = {f"CLUSTER_{name.upper()}_PORT": str(port) for name, port in asdict(ports).items()}
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    started = workspace.with_variables(**variables, **{FOLDER: str(root / "cluster")}, PYTHONPATH=str(workspace.path))
    try:
        started.run(sys.executable, "-m", "cluster.local", "up", timeout=900)
        cluster = Cluster(workspace.path, root / "cluster", ports, Passwords.of(root / "cluster"))
        yield started.with_variables(**cluster.client_variables), cluster
    finally:
        started.run(sys.executable, "-m", "cluster.local", "down", timeout=300)
        if "KEEP" in os.environ:
            say(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


def assert_nothing_runs(workspace: Workspace) -> None:
    def left() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if process.pid != os.getpid() and _works_in(process)]

    def _works_in(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.environ().get(FOLDER) == workspace.variables[FOLDER]
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


if __name__ == "__main__":
    main()
