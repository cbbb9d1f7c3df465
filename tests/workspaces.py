"""Workspaces: copies of the checkout in which the pipeline, or a stub of it that takes seconds, is run for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

STUB = Path(__file__).parent / "stub.yaml"
SERVERS = ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "CONDENSENET_RAY")


@dataclass(frozen=True)
class Workspace:
    """A copy of the checkout with a git repository of its own."""

    path: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if k not in SERVERS and not k.startswith(("GIT_", "DVC_"))}
        own = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        return {**inherited, **own, **self.variables}

    def start(self, *command: str) -> subprocess.Popen[str]:
        """The command as the leader of a process group of its own."""
        return start(command, self.path, self.environment)

    def run(self, *command: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.path, env=self.environment, text=True, capture_output=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def dvc(self, *arguments: str, check: bool = True) -> str:
        done = self.run(sys.executable, "-m", "dvc", *arguments, check=check)
        return done.stdout + done.stderr

    def flow(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "flows.reproduce", *arguments, check=check)

    def commit(self, message: str = "Change") -> None:
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", message)

    def read(self, name: str) -> object:
        from ruamel.yaml import YAML

        return YAML(typ="safe", pure=True).load(self.path / name)

    def edit(self, old: str, new: str, name: str = "params.yaml") -> None:
        file = self.path / name
        text = file.read_text()
        assert old in text, f"{old!r} is not in {name}"
        file.write_text(text.replace(old, new, 1))

    def with_variables(self, **variables: str) -> Workspace:
        return Workspace(self.path, {**self.variables, **variables})


def start(
    command: Sequence[str], folder: Path, environment: dict[str, str], stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """The command as the leader of a process group of its own; what it prints can be read."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback on which nobody listens, all different."""
    with ExitStack() as open_until_all_are_found:
        probes = [open_until_all_are_found.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def copy_checkout(checkout: Path, target: Path) -> Workspace:
    """The files of the checkout that git knows or would take, committed in a new repository.

    Without ``dvc.lock``: what was run in the checkout (``make demo`` before ``make test``) is not what is tested.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (checkout / name).is_file() and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, target / name)
    workspace = Workspace(target)
    workspace.run("git", "init", "--quiet")
    workspace.commit("Start")
    return workspace


@pytest.fixture(scope="session")
def stub_origin(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The real code and parameters, two settings, and stages that are shell commands of a moment."""
    from ruamel.yaml import YAML

    workspace = copy_checkout(checkout, tmp_path_factory.mktemp("origin") / "stub")
    shutil.copyfile(STUB, workspace.path / "dvc.yaml")
    params = workspace.read("params.yaml")
    assert isinstance(params, dict)
    params["settings"] = {name: params["settings"][name] for name in ("g2-c2", "g4-c2")}
    YAML().dump(params, workspace.path / "params.yaml")
    workspace.commit("Put the stub in")
    return workspace


@pytest.fixture
def stub(stub_origin: Workspace, tmp_path: Path) -> Workspace:
    """A stub workspace of this test's own, nothing run in it yet."""
    shutil.copytree(stub_origin.path, tmp_path / "stub")
    return Workspace(tmp_path / "stub")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Prefect server on loopback; yields the variables that lead to it."""
    with serve_prefect(tmp_path_factory.mktemp("prefect")) as variables:
        yield variables


@contextmanager
def serve_prefect(home: Path) -> Iterator[dict[str, str]]:
    """A Prefect server on the database in ``home``; yields the variables that lead to it."""
    (port,) = free_ports(1)
    variables = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
            env={**os.environ, **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            health = f"{variables['PREFECT_API_URL']}/health"
            wait_until(lambda: server.poll() is not None or answers(health), 90, (home / "server.log").read_text)
            assert server.poll() is None, (home / "server.log").read_text()
            yield variables
        finally:
            end_group(server)


@pytest.fixture
def served_stub(stub: Workspace, prefect_server: dict[str, str]) -> Workspace:
    return stub.with_variables(**prefect_server)


def ask(workspace: Workspace, path: str, **body: object) -> list[dict[str, object]]:
    """A query of the REST interface of the Prefect server that ``workspace`` knows."""
    request = urllib.request.Request(
        f"{workspace.variables['PREFECT_API_URL']}/{path}/filter",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        rows: list[dict[str, object]] = json.load(response)
        return rows


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def wait_until(condition, seconds: float, explain=lambda: "") -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s; {explain()}"
        time.sleep(0.1)


def end_group(process: subprocess.Popen, sign: int = signal.SIGINT) -> None:  # type: ignore[type-arg]
    """End the process and all in its group, gently at first."""
    for attempt in (sign, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, attempt)
        except ProcessLookupError:
            break
        try:
            process.wait(10)
            break
        except subprocess.TimeoutExpired:
            continue
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
