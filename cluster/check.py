"""Whether a local cluster works: who answers, what a stranger reaches, and one small flow as far as MLflow."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import sockets, supervisor
from cluster.services import QUIET, postgres_binaries, run, services
from cluster.settings import BUCKET, HOST, POOL, USER, Cluster
from tasks.console import say
from tasks.errors import UserError

STUDY, SETTING = "cluster-check", "g4-c4"
OVERRIDES = [f"study={STUDY}", "train.epochs=2", "ray.num_workers=1"]
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
DENIED = (401, 403)


def check(cluster: Cluster) -> None:
    """Raises ``UserError`` for the first thing that is not as it should be."""
    for service in services(cluster):
        if not service.ready():
            raise UserError(f"{service.name} does not answer: make cluster-up, or see {cluster.folder / 'logs'}")
        say(f"{service.name} answers")
    check_passwords(cluster)
    with sockets.watched(supervisor.running(cluster.folder) or os.getpid()) as exposed:
        run_flow(cluster)
    if exposed:
        raise UserError(f"listens beyond the loopback without a password: {'; '.join(sorted(exposed))}")
    say("beyond the loopback nothing listened meanwhile but Ray, which asks for its token")


def check_passwords(cluster: Cluster) -> None:
    """The servers serve those who have the password, and nobody else."""
    requests = {
        "MLflow": (f"{cluster.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1", None, "admin"),
        "Prefect": (f"{cluster.prefect_url}/flows/count", b"{}", USER),
    }
    passwords = {"MLflow": cluster.passwords.mlflow, "Prefect": cluster.passwords.prefect}
    for name, (url, body, user) in requests.items():
        strangers = (_status(url, body, user, "wrong"), _status(url, body, None, ""))
        _expect(name, _status(url, body, user, passwords[name]) == 200, all(each in DENIED for each in strangers))
    _expect("PostgreSQL", _psql(cluster, cluster.passwords.postgres), not _psql(cluster, "wrong"))
    _expect("Ray", _ray(cluster, {}), not _ray(cluster, {"RAY_AUTH_MODE": "disabled"}))


def _expect(name: str, friend_served: bool, stranger_refused: bool) -> None:
    if not friend_served:
        raise UserError(f"{name} refuses its own password")
    if not stranger_refused:
        raise UserError(f"{name} serves strangers without its password")
    say(f"{name} asks for its password")


def _status(url: str, body: bytes | None, user: str | None, password: str) -> int:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    if user is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def _psql(cluster: Cluster, password: str) -> bool:
    options = ("-h", HOST, "-p", str(cluster.ports.postgres), "-U", USER, "-d", "mlflow", "-c", "SELECT 1")
    return _succeeds((f"{postgres_binaries()}/psql", *options), {"PGPASSWORD": password})


def _ray(cluster: Cluster, variables: Mapping[str, str]) -> bool:
    ray = str(Path(sys.executable).with_name("ray"))
    return _succeeds((ray, "status", "--address", cluster.ray_address), {**cluster.ray_variables, **variables})


def _succeeds(command: tuple[str, ...], variables: Mapping[str, str]) -> bool:
    environment = {**os.environ, **QUIET, **variables}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def run_flow(cluster: Cluster) -> None:
    """Deploy a clone of the checkout, run one setting of the digits there, and find the run and its model in MLflow."""
    workspace = cluster.folder / "check"
    shutil.rmtree(workspace, ignore_errors=True)
    run(("git", "clone", "--quiet", str(cluster.checkout), str(workspace)), {}, cluster.folder)
    variables = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    variables |= cluster.client_variables
    deploy = ("deploy", "flows/pipeline.py:reproduce", "--name", "check", "--pool", POOL)
    run((*PREFECT, *deploy), variables, workspace)
    started = time.time()
    say(f"running the deployment reproduce/check: {SETTING} of the digits, two epochs")
    parameters = (f"settings={json.dumps([SETTING])}", f"overrides={json.dumps(OVERRIDES)}")
    options = [option for parameter in parameters for option in ("--param", parameter)]
    run((*PREFECT, "deployment", "run", "reproduce/check", "--watch", *options), variables, workspace)
    say(f"the deployment has finished in {time.time() - started:.0f} s")
    _check_tracked(cluster, json.loads((workspace / "out" / STUDY / "train" / SETTING / "run.json").read_text()))


def _check_tracked(cluster: Cluster, made: Mapping[str, Any]) -> None:
    os.environ.update({**QUIET, **cluster.client_variables})
    import boto3
    from mlflow import MlflowClient

    client = MlflowClient(cluster.mlflow_url)
    tracked = client.get_run(made["mlflow_run_id"])
    if tracked.info.status != "FINISHED" or "test/error_pct" not in tracked.data.metrics:
        raise UserError(f"MLflow's run {tracked.info.run_id} is {tracked.info.status} or lacks its metrics")
    error = tracked.data.metrics["test/error_pct"]
    objects = boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("KeyCount", 0)
    if not objects:
        raise UserError(f"the bucket {BUCKET} is empty: MLflow keeps artifacts elsewhere")
    say(f"MLflow has the run {tracked.info.run_id} (test error {error:.1f}%), and the bucket {BUCKET} its artifacts")
