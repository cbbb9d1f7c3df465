"""The services of a cluster on one machine: started for real, guarded, started again, and gone in the end."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

import psutil
import pytest
from processes import command_line, runs
from workspaces import free_ports, wait_until

from cluster import check, sockets, supervisor
from cluster.mlflow_server import auth_config
from cluster.mlflow_server import check as check_mlflow
from cluster.services import postgres_binaries, services
from cluster.settings import FOLDER, Cluster, Passwords, Ports
from condensenet.file_locks import try_lock
from tasks import telemetry
from tasks.errors import UserError
from tasks.ray_local import NO_CLOUD

WAIT_S = 120


def port_variables() -> dict[str, str]:
    names = [each.name for each in fields(Ports)]
    found = zip(names, free_ports(len(names)), strict=True)
    return {f"CLUSTER_{name.upper()}_PORT": str(port) for name, port in found}


def command(verb: str, environment: dict[str, str], checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.local", verb], env=environment, cwd=checkout, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def postgres() -> None:
    try:
        postgres_binaries()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def environment(postgres: None) -> Iterator[dict[str, str]]:
    """Variables of a cluster of this module's own. Its folder is open to PostgreSQL's account, unlike pytest's."""
    pytest.importorskip("moto")
    folder = Path(tempfile.mkdtemp(prefix="cn-test-cluster-"))
    folder.chmod(0o711)
    try:
        yield {**os.environ, FOLDER: str(folder / "cluster"), **port_variables()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str], checkout: Path) -> Iterator[Cluster]:
    done = command("up", environment, checkout)
    logs = Path(environment[FOLDER]) / "logs"
    try:
        tails = [path.read_text(errors="replace")[-1000:] for path in logs.glob("*.log")]
        assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *tails])
        folder = Path(environment[FOLDER])
        ports = Ports(**json.loads((folder / "ports.json").read_text()))
        yield Cluster(checkout, folder, ports, Passwords.of(folder))
    finally:
        ended = command("down", environment, checkout)
        assert ended.returncode == 0, ended.stderr
        assert not list(Path(environment[FOLDER]).glob("*.pid"))


def test_all_services_answer_to_those_with_the_password_alone(cluster: Cluster) -> None:
    assert all(service.ready() for service in services(cluster))
    check.check_passwords(cluster)


def test_secrets_can_be_read_by_their_owner_alone(cluster: Cluster) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in cluster.folder.iterdir()}
    for name in ("passwords.json", "env", "ray-token", "mlflow-auth.ini"):
        assert modes[name] == 0o600, name
    for name in ("logs", "prefect", "postgres"):
        assert modes[name] == 0o700, name
    assert not stat.S_IMODE(cluster.folder.stat().st_mode) & 0o044
    assert stat.S_IMODE(cluster.ray_folder.stat().st_mode) == 0o700


def test_no_password_is_in_a_command_line(cluster: Cluster) -> None:
    root = psutil.Process(supervisor.running(cluster.folder))
    lines = [" ".join(command_line(process)) for process in [root, *root.children(recursive=True)]]
    assert len(lines) > 6
    for password in asdict(cluster.passwords).values():
        assert not any(password in line for line in lines)


def test_no_password_is_in_a_log(cluster: Cluster) -> None:
    logs = [*(cluster.folder / "logs").iterdir(), *(cluster.folder / "prefect").rglob("*.log")]
    logs += [
        path for path in cluster.ray_folder.rglob("*") if path.is_file() and path.suffix in (".log", ".out", ".err")
    ]
    assert len(logs) > 10
    for password in asdict(cluster.passwords).values():
        assert not [path for path in logs if password.encode() in path.read_bytes()]


def test_only_ray_listens_beyond_the_loopback(cluster: Cluster) -> None:
    root = supervisor.running(cluster.folder)
    assert root is not None
    assert sockets.exposed(root) == set()
    names = [process for process in psutil.Process(root).children(recursive=True) if process.name() == "gcs_server"]
    assert len(names) == 1  # what is looked at holds what listens


def test_up_changes_nothing_where_all_runs(cluster: Cluster, environment: dict[str, str], checkout: Path) -> None:
    before = {path.name: path.read_text() for path in cluster.folder.glob("*.pid")}
    assert command("up", environment, checkout).returncode == 0
    assert {path.name: path.read_text() for path in cluster.folder.glob("*.pid")} == before
    assert len(before) == 6


def test_a_killed_service_is_started_again(cluster: Cluster) -> None:
    s3 = next(service for service in services(cluster) if service.name == "s3")
    pid, _ = json.loads((cluster.folder / "s3.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _ready(cluster)["s3"] is False, WAIT_S, lambda: "not noticed")
    wait_until(lambda: _ready(cluster)["s3"] and s3.ready(), WAIT_S, lambda: "not started again")
    assert json.loads((cluster.folder / "s3.pid").read_text())[0] != pid


def _ready(cluster: Cluster) -> dict[str, bool]:
    ready: dict[str, bool] = json.loads((cluster.folder / supervisor.STATUS).read_text())["ready"]
    return ready


def test_prefect_takes_the_job_template_of_kubernetes(cluster: Cluster, checkout: Path) -> None:
    template = checkout / "cluster" / "kubernetes" / "prefect-job-template.json"
    prefect = (sys.executable, "-m", "prefect", "--no-prompt", "work-pool")
    variables = {**os.environ, **cluster.client_variables}
    create = (*prefect, "create", "kubernetes", "--type", "kubernetes", "--base-job-template", str(template))
    subprocess.run(create, env=variables, check=True, capture_output=True)
    shown = subprocess.run(
        [*prefect, "inspect", "kubernetes", "--output", "json"], env=variables, check=True, capture_output=True
    )
    assert json.loads(shown.stdout)["base_job_template"] == json.loads(template.read_text())


# The last one: it leaves services without their supervisor, and `down` has to find them.
def test_a_killed_supervisor_leaves_nothing_behind_after_down(
    cluster: Cluster, environment: dict[str, str], checkout: Path
) -> None:
    root = psutil.Process(supervisor.running(cluster.folder))
    family = root.children(recursive=True)
    root.kill()
    wait_until(lambda: supervisor.running(cluster.folder) is None, WAIT_S, lambda: "still there")
    done = command("down", environment, checkout)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not any(map(runs, family)), 10, lambda: str([each for each in family if runs(each)]))


@pytest.mark.usefixtures("postgres")
def test_no_service_but_rays_head_is_kept_from_the_credentials_of_its_cloud(checkout: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))")
    for service in services(Cluster(checkout, tmp_path, Ports(), Passwords())):
        log = tmp_path / service.name
        assert replace(service, command=command, account=None).start(log).wait() == 0
        got = json.loads(log.read_text())
        assert telemetry.OFF.items() <= got.items()
        assert [got.get(name) for name in NO_CLOUD] == 2 * [telemetry.NOWHERE if service.name == "ray" else None]


def test_a_port_that_is_taken_is_one_line(checkout: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        variables = {**os.environ, **port_variables(), "CLUSTER_MLFLOW_PORT": port, FOLDER: str(tmp_path / "c")}
        done = command("up", variables, checkout)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: port {port} of 127.0.0.1 is taken")
    assert "CLUSTER_MLFLOW_PORT" in line
    assert not list((tmp_path / "c").glob("*.pid"))


@pytest.mark.parametrize("given", ["80", "65536", "x", ""])
def test_what_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("CLUSTER_S3_PORT", given)
    with pytest.raises(UserError, match=rf"CLUSTER_S3_PORT='{given}' is not allowed: a port from 1024 to 65535"):
        Ports.from_environment()


def test_two_services_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_RAY_PORT", str(Ports().mlflow))
    with pytest.raises(UserError, match="two services cannot share a port"):
        Ports.from_environment()


def test_down_without_a_cluster_is_one_line(checkout: Path, tmp_path: Path) -> None:
    done = command("down", {**os.environ, FOLDER: str(tmp_path / "none")}, checkout)
    assert done.stderr == f"error: no cluster in {tmp_path / 'none'}: make cluster-up makes one\n"


def test_who_asks_for_the_supervisor_disturbs_neither_it_nor_others_who_ask(tmp_path: Path) -> None:
    assert supervisor.running(tmp_path) is None
    with supervisor.alone(tmp_path):
        assert supervisor.running(tmp_path) == os.getpid()
        with pytest.raises(UserError, match="another supervisor is at work"), supervisor.alone(tmp_path):
            pass
    with (tmp_path / supervisor.LOCK).open() as asking:
        try_lock(asking, shared=True)
        assert supervisor.running(tmp_path) is None
        threading.Timer(0.5, asking.close).start()
        with supervisor.alone(tmp_path):
            assert supervisor.running(tmp_path) == os.getpid()


def test_a_socket_on_all_interfaces_is_seen() -> None:
    with socket.socket() as loopback, socket.socket() as everywhere:
        loopback.bind(("127.0.0.1", 0))
        loopback.listen()
        assert sockets.exposed(os.getpid()) == set()
        everywhere.bind(("0.0.0.0", 0))
        everywhere.listen()
        (seen,) = sockets.exposed(os.getpid())
        assert f"0.0.0.0:{everywhere.getsockname()[1]}" in seen


MLFLOW = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg://u:p@h/mlflow",
    "MLFLOW_AUTH_DATABASE_URI": "postgresql+psycopg://u:p@h/mlflow_auth",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://b",
    "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "123456789012",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "s",
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", "", "MLFLOW_FLASK_SERVER_SECRET_KEY is missing"),
        ("MLFLOW_AUTH_DATABASE_URI", "postgresql://u:p@h/d", r"MLFLOW_AUTH_DATABASE_URI names no driver: .*\+psycopg"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "12345678901", "too short: it needs 12"),
        ("MLFLOW_AUTH_CONFIG_PATH", "mine.ini", "MLFLOW_AUTH_CONFIG_PATH is not allowed"),
    ],
)
def test_mlflow_is_not_started_with_what_cannot_work(name: str, value: str, message: str) -> None:
    check_mlflow(MLFLOW)
    with pytest.raises(UserError, match=message):
        check_mlflow({**MLFLOW, name: value})


def test_a_password_with_a_percent_sign_reaches_mlflow() -> None:
    config = configparser.ConfigParser()  # with which MLflow reads it
    config.read_string(auth_config("postgresql+psycopg://u:a%40b@h/d"))
    assert config["mlflow"]["database_uri"] == "postgresql+psycopg://u:a%40b@h/d"
