"""Commands that work on a folder with ``params.yaml``: a checkout, or the workspace of a training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import tasks
from tasks import paths, telemetry
from tasks.errors import UserError


def environment() -> dict[str, str]:
    """For a process that runs our modules from another folder, with the programs of this environment first."""
    code = str(Path(tasks.__file__).resolve().parents[1])
    return {
        **telemetry.OFF,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")])),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


def run_module(module: str, arguments: Sequence[str], folder: Path) -> None:
    """Run ``python -m module`` in ``folder``; its output is ours, and so is its exit status if it fails.

    Ctrl-C reaches it from the terminal, SIGTERM from here; either way it may first save what it has.
    """
    processes: list[subprocess.Popen[bytes]] = []
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        for process in processes:
            process.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        processes.append(subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=folder, env=environment()))
        if stopped:
            processes[0].terminate()
        status = _wait(processes[0])
    finally:
        signal.signal(signal.SIGTERM, before)
    if status != 0:
        sys.exit(status if status > 0 else 128 - status)
    if stopped:  # it had just ended
        sys.exit(128 + signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        with suppress(KeyboardInterrupt):  # subprocess.run would kill it at once
            return process.wait()


def run_in_checkout(module: str, arguments: Sequence[str], folder: Path = Path()) -> None:
    """Run ``module`` in ``folder``, which must be a checkout."""
    needed = (paths.PARAMS, paths.DVC_YAML, paths.PUBLISHED)
    if missing := [path for path in needed if not (folder / path).is_file()]:
        where = "here: run this in" if folder == Path() else f"in {folder}: give"
        raise UserError(f"{missing[0]} is missing {where} a checkout of the project")
    if module == "flows.reproduce" and "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(folder.resolve() / ".prefect"))
    run_module(module, arguments, folder.resolve())


def as_typed(path: Path) -> Path:
    """``path`` as a user would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def serve_ui(folder: Path, port: int) -> None:
    """The MLflow server on what runs in ``folder`` recorded."""
    database = folder.resolve() / "mlflow.db"
    if not database.is_file():
        raise UserError(f"{database} is missing: nothing has been trained in {folder.resolve()} yet")
    address = f"http://127.0.0.1:{port}"
    print(f"MLflow UI: {address} (Ctrl-C ends it); settings side by side:", flush=True)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    run_module("tasks.track", ["--links", address], folder)
    server = ["server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{database}",
        "--artifacts-destination",
        str(database.parent / "mlruns"),
    ]
    run_module("mlflow", [*server, *stores], folder)
