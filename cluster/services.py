"""The services of a local cluster: how each is prepared and started, and when it is ready."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.settings import BUCKET, HOST, POOL, USER, Cluster
from tasks import telemetry
from tasks.errors import UserError, first_line
from tasks.private_files import write_private
from tasks.ray_local import NO_CLOUD, RAY_HOST
from tasks.server_addresses import listens

QUIET = {
    **telemetry.OFF,
    "PYTHONUNBUFFERED": "1",
}
PYTHON = sys.executable
POSTGRES_ACCOUNT = "postgres"  # which Debian's package makes


@dataclass(frozen=True)
class Service:
    """``prepare`` runs before each start, ``after`` each time it has become ready."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool]
    variables: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    account: str | None = None  # whom it runs as, if not us

    def start(self, log: Path, cwd: Path = Path("/")) -> subprocess.Popen[bytes]:
        """Its process, in a session of its own, with what it prints in ``log``."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self.command,
                cwd=cwd,
                env={**os.environ, **QUIET, **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                **account_options(self.account),
            )


def services(cluster: Cluster) -> tuple[Service, ...]:
    """In the order of starting; each needs only those before it."""
    return (
        postgres_server(cluster),
        _s3(cluster),
        _mlflow(cluster),
        _prefect(cluster),
        _ray(cluster),
        _worker(cluster),
    )


def answers(url: str) -> bool:
    """Whether a server is there and well."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


def run(command: Iterable[str], variables: Mapping[str, str], cwd: Path, account: str | None = None) -> str:
    """Run a command to its end and return what it printed; raises ``UserError`` with its last line if it fails."""
    command = list(command)
    done = subprocess.run(
        command,
        env={**os.environ, **QUIET, **variables},
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        **account_options(account),
    )
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        raise UserError(f"{Path(command[0]).name} {' '.join(command[1:4])}: {lines[-1].strip() if lines else 'failed'}")
    return done.stdout


def account_options(account: str | None) -> dict[str, Any]:
    """What ``subprocess`` needs to run a process as another user."""
    return {} if account is None else {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}


def postgres_server(cluster: Cluster) -> Service:
    binaries = postgres_binaries()
    data, run_folder = cluster.folder / "postgres", cluster.folder / "postgres-run"
    account = POSTGRES_ACCOUNT if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    port = str(cluster.ports.postgres)

    def prepare() -> None:
        if account:
            _check_reachable(cluster.folder, account)
        for folder in (data, run_folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            if account:
                shutil.chown(folder, account)
        if not (data / "PG_VERSION").exists():
            secret = run_folder / "password"
            write_private(secret, cluster.passwords.postgres)
            if account:
                shutil.chown(secret, account)
            options = ("--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8")
            try:
                run((f"{binaries}/initdb", "-D", str(data), "-U", USER, *options), {}, data, account)
            finally:
                secret.unlink()

    def after() -> None:
        client = (f"{binaries}/psql", "-h", HOST, "-p", port, "-U", USER, "-d", "postgres", "-v", "ON_ERROR_STOP=1")
        variables = {"PGPASSWORD": cluster.passwords.postgres}
        there = run((*client, "-Atc", "SELECT datname FROM pg_database"), variables, cluster.folder)
        if "mlflow_auth" not in there.split():
            run((*client, "-f", str(Path(__file__).with_name("databases.sql"))), variables, cluster.folder)

    return Service(
        "postgres",
        (f"{binaries}/postgres", "-D", str(data), "-p", port, "-h", HOST, "-k", str(run_folder)),
        ready=lambda: _succeeds(f"{binaries}/pg_isready", "-q", "-h", HOST, "-p", port),
        prepare=prepare,
        after=after,
        account=account,
    )


def postgres_binaries() -> Path:
    """The folder of PostgreSQL's programs; raises ``UserError`` if it is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("postgres")
    if found is None:
        raise UserError("PostgreSQL is missing: apt-get install postgresql, or have `postgres` on the path")
    return Path(found).parent


def _s3(cluster: Cluster) -> Service:
    return Service(
        "s3",
        (str(Path(PYTHON).with_name("moto_server")), "-H", HOST, "-p", str(cluster.ports.s3)),
        ready=lambda: listens(HOST, cluster.ports.s3),
        after=lambda: _made_bucket(cluster),
    )


def _made_bucket(cluster: Cluster) -> None:
    run((PYTHON, "-m", "cluster.bucket", BUCKET), cluster.store_variables, cluster.checkout)


def _mlflow(cluster: Cluster) -> Service:
    return Service(
        "mlflow",
        (PYTHON, "-m", "cluster.mlflow_server", "--host", HOST, "--port", str(cluster.ports.mlflow)),
        ready=lambda: answers(f"{cluster.mlflow_url}/health"),
        variables={
            "MLFLOW_BACKEND_STORE_URI": cluster.database("mlflow", "psycopg"),
            "MLFLOW_AUTH_DATABASE_URI": cluster.database("mlflow_auth", "psycopg"),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}",
            "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
            "MLFLOW_AUTH_ADMIN_PASSWORD": cluster.passwords.mlflow,
            "CLUSTER_MLFLOW_AUTH_FILE": str(cluster.folder / "mlflow-auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": cluster.passwords.mlflow_session,
            **cluster.store_variables,
        },
    )


def _prefect(cluster: Cluster) -> Service:
    home = {"PREFECT_HOME": str(cluster.folder / "prefect")}
    client = {**home, "PREFECT_API_URL": cluster.prefect_url}
    client |= {"PREFECT_API_AUTH_STRING": f"{USER}:{cluster.passwords.prefect}"}
    prefect = (PYTHON, "-m", "prefect", "--no-prompt")

    def after() -> None:
        pools = run((*prefect, "work-pool", "ls", "--output", "json"), client, cluster.checkout)
        if f'"{POOL}"' not in pools:
            run((*prefect, "work-pool", "create", POOL, "--type", "process"), client, cluster.checkout)
        run((*prefect, "deploy", "--all"), client, cluster.checkout)

    return Service(
        "prefect",
        (*prefect, "server", "start", "--host", HOST, "--port", str(cluster.ports.prefect)),
        ready=lambda: answers(f"{cluster.prefect_url}/health"),
        variables={
            **home,
            "PREFECT_API_DATABASE_CONNECTION_URL": cluster.database("prefect", "asyncpg"),
            "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{cluster.passwords.prefect}",
            "PREFECT_SERVER_UI_API_URL": cluster.prefect_url,
        },
        after=after,
    )


def _ray(cluster: Cluster) -> Service:
    def prepare() -> None:
        # Ray opens its own folder to everybody, so the one above is closed to others.
        shutil.rmtree(cluster.ray_folder, ignore_errors=True)
        cluster.ray_folder.mkdir(mode=0o700)
        write_private(cluster.token_file, cluster.passwords.ray)

    ports = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
    place = (f"--node-ip-address={RAY_HOST}", f"--port={cluster.ports.ray}", f"--temp-dir={cluster.ray_folder / 'r'}")
    # Without its monitor, which serves no autoscaler here and whose metrics (44217) anybody could read.
    options = (
        "--include-dashboard=false",
        "--no-monitor",
        "--disable-usage-stats",
        f"--object-store-memory={100 << 20}",
    )
    ray = (str(Path(PYTHON).with_name("ray")), "start", "--head", "--block")
    return Service(
        "ray",
        (*ray, *place, *ports, *options),
        ready=lambda: (
            any(cluster.ray_folder.glob("r/session_2*/sockets/raylet")) and listens(RAY_HOST, cluster.ports.ray)
        ),
        variables={**cluster.ray_variables, **NO_CLOUD},
        prepare=prepare,
    )


def _worker(cluster: Cluster) -> Service:
    health = f"http://{HOST}:{cluster.ports.worker}/health"
    return Service(
        "worker",
        (
            PYTHON,
            "-m",
            "prefect",
            "--no-prompt",
            "worker",
            "start",
            "--pool",
            POOL,
            "--name",
            "local",
            "--with-healthcheck",
        ),
        ready=lambda: answers(health),
        variables={
            **cluster.client_variables,
            "PREFECT_WORKER_WEBSERVER_HOST": HOST,
            "PREFECT_WORKER_WEBSERVER_PORT": str(cluster.ports.worker),
        },
    )


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _check_reachable(folder: Path, account: str) -> None:
    """Raises ``UserError`` if ``account`` may not pass one of the folders above, or does not exist."""
    try:
        run(("test", "-x", str(folder)), {}, Path("/"), account)
    except KeyError:
        raise UserError(f"PostgreSQL does not run as root, and the account {account} is missing") from None
    except UserError as error:
        closed = next((each for each in reversed([folder, *folder.parents]) if not each.stat().st_mode & 0o001), folder)
        raise UserError(
            f"{closed} is closed to the account {account}, as which root has to run PostgreSQL: "
            f"use a checkout elsewhere, or another user ({first_line(error)})"
        ) from None
