"""All services of a cluster on one machine, without containers, on the loopback and with passwords.

python -m cluster.local up       # PostgreSQL, S3, MLflow, Prefect, Ray and a Prefect worker; does nothing if they run
python -m cluster.local check    # asks each of them, with and without its password, and runs one small flow
python -m cluster.local down     # ends them; what they hold stays

Their state is in ``state/cluster/``. ``. state/cluster/env`` gives a shell what clients need. The S3 store is moto's,
which keeps objects in memory: they are gone when it ends, so this is for trying and testing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from cluster import supervisor
from cluster.services import services
from cluster.settings import CHECKOUT, PORTS_FILE, Cluster, Passwords, Ports, state_folder
from condensenet.file_locks import lock
from tasks.console import say
from tasks.errors import UserError, run_main
from tasks.private_files import write_private

ENV = "env"
UP_S = 900.0
DOWN_S = 180.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description=__doc__, allow_abbrev=False)
    parser.add_argument("command", choices=("up", "check", "down"))
    command = parser.parse_args().command
    if command == "up":
        up()
    elif command == "down":
        down()
    else:
        from cluster.check import check

        check(Cluster.settled())


def up() -> None:
    """Start what is not running and wait until all is ready."""
    folder = state_folder()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)  # as root, PostgreSQL runs as another user
    for name in ("logs", "prefect"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name).chmod(0o700)
    with (folder / "up.lock").open("w") as starting:
        lock(starting)  # two at once would both find nothing running
        if supervisor.running(folder) is None:
            ports = Ports.from_environment()
            cluster = Cluster(CHECKOUT, folder, ports, Passwords.of(folder))
            supervisor.end_leftovers(cluster)
            ports.check_free()
            services(cluster)  # raises for what is not installed
            write_private(folder / PORTS_FILE, json.dumps(asdict(ports)))
            write_private(folder / ENV, shell_exports(cluster.client_variables))
            _start_supervisor(folder)
        _await_ready(folder)
    _describe(Cluster.settled())


def down() -> None:
    """End all services. Fine if none is running."""
    cluster = Cluster.settled()
    pid = supervisor.running(cluster.folder)
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_S
        while supervisor.running(cluster.folder) is not None:
            if time.monotonic() > deadline:
                raise UserError(f"the supervisor, process {pid}, has not ended after {DOWN_S:.0f} s")
            time.sleep(0.1)
    supervisor.end_leftovers(cluster)
    shutil.rmtree(cluster.ray_folder, ignore_errors=True)
    say(f"nothing runs; what the servers hold is in {cluster.folder}")


def shell_exports(variables: dict[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _start_supervisor(folder: Path) -> None:
    (folder / supervisor.STATUS).unlink(missing_ok=True)
    with (folder / "logs" / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "cluster.supervisor"],
            cwd=CHECKOUT,
            env=_own_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _own_environment() -> dict[str, str]:
    """Ours without the variables that lead clients and servers elsewhere, and with this environment's programs."""
    foreign = ("PREFECT_", "MLFLOW_", "RAY_", "AWS_", "CONDENSENET_RAY", "PG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def _await_ready(folder: Path) -> None:
    deadline, shown = time.monotonic() + UP_S, set[str]()
    began = time.monotonic()
    while time.monotonic() < deadline:
        status = _status(folder)
        for name in [name for name, ready in status["ready"].items() if ready and name not in shown]:
            shown.add(name)
            say(f"{time.monotonic() - began:5.0f} s  {name} is ready")
        if status["error"]:
            raise UserError(status["error"])
        if status["ready"] and all(status["ready"].values()):
            return
        if supervisor.running(folder) is None and time.monotonic() - began > 20:
            raise UserError(f"the supervisor has ended: see {folder / 'logs' / 'supervisor.log'}")
        time.sleep(0.2)
    raise UserError(f"not ready after {UP_S:.0f} s: see {folder / 'logs'}")


def _status(folder: Path) -> dict[str, dict[str, bool]]:
    with suppress(FileNotFoundError):
        status: dict[str, dict[str, bool]] = json.loads((folder / supervisor.STATUS).read_text())
        return status
    return {"ready": {}, "error": {}}


def _describe(cluster: Cluster) -> None:
    say(f"MLflow    {cluster.mlflow_url}   user admin, password in {cluster.folder / ENV}")
    say(f"Prefect   {cluster.prefect_url.removesuffix('/api')}   password in {cluster.folder / ENV}")
    say(f"Ray       {cluster.ray_address}   token in {cluster.token_file}")
    say(f"In a shell:  . {cluster.folder / ENV}")


if __name__ == "__main__":
    run_main(main)
