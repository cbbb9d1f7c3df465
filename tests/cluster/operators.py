"""Run every command of docs/OPERATORS.md, in order, in a copy of the checkout: `make operators-test`.

    python -m tests.cluster.operators [WORD...]     # only sections whose titles contain one of the words

The commands come from the document. What stands for the operator's own machines is in ``Places``; what cannot be run
here is in ``LEFT_OUT`` with the reason, which is printed. An entry that no command uses any more is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from cluster.services import answers, postgres_server
from cluster.settings import Cluster, Passwords, Ports
from tasks import telemetry
from tasks.ray_head import kill_all
from tasks.server_addresses import listens
from tests.workspaces import copy_checkout, free_ports

CHECKOUT = Path(__file__).resolve().parents[2]
MARK = "CONDENSENET_OPERATORS_TEST"  # in the environment of all that is started, so that all of it can be found
LIMIT_S = 1200
SERVERS = {  # what goes on running, and when it is up
    r"^prefect server start --host 127\.0\.0\.1 +#": "http://127.0.0.1:4200/api/health",
    r"^prefect server start .*--port 4201": "http://127.0.0.1:4201/api/health",
    r"^prefect worker start": None,
    r"^c/bin/prefect worker start": None,
    r"mlflow server ": "http://127.0.0.1:5000/health",
    r"cluster.mlflow_server": "http://127.0.0.1:5001/health",
}
NODE = r"^ray start "  # has the variables that the page wants on every node before
STORE = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:7071",
}
LEFT_OUT = {
    r"^cp cluster/\.env|^docker": "needs a container engine",
    r"kubectl|^(cp|sed) .*cluster/kubernetes": "needs a Kubernetes cluster",
    r"^sbatch": "needs Slurm",
    r"study=cifar10": "downloads CIFAR-10",
}
POINTS = '{"model.groups_1x1": [1, 2, 4], "model.condensation_factor": [1, 2, 4]}'
IMAGENET = "-S study=imagenet -S data.path=/data/imagenet -S ray.num_workers=16 -S ray.use_gpu=true"
FOREIGN = ("PREFECT_", "MLFLOW_", "RAY_", "AWS_", "CONDENSENET_", "CLUSTER_", "GIT_", "DVC_", "MAKE", "MFLAGS")


@dataclass(frozen=True)
class Step:
    section: str
    command: str


def steps(document: str) -> Iterator[Step]:
    """The commands of all blocks marked ``sh``, continued lines joined."""
    section, inside, lines = "", False, list[str]()
    for line in document.splitlines():
        if line.startswith("```"):
            inside = line == "```sh"
        elif not inside:
            section = line.removeprefix("## ") if line.startswith("## ") else section
        else:
            lines.append(line)
            if not line.endswith("\\"):
                yield Step(section, "\n".join(lines))
                lines = []


@dataclass
class Places:
    """A small network of the operator's: servers, a device, a second machine. All of it is on this one."""

    root: Path
    database: str
    password: str
    find_run: Callable[[], str]  # on the MLflow server that the page starts first
    used: set[str] = field(default_factory=set)

    @property
    def device(self) -> Path:
        return self.root / "pi5"

    @property
    def names(self) -> dict[str, str]:
        return {
            "<head>": "127.0.0.2",
            "<address>": "127.0.0.3",
            IMAGENET: "-S ray.num_workers=2",
            POINTS: '{"model.groups_1x1": [4], "model.condensation_factor": [2, 4]}',
            "/shared/ray": str(self.root / "shared"),
            "/srv/mlflow": str(self.root / "srv"),
            "<server>": "127.0.0.1",
            "<user>:<password>": "someone:secret",
            "<database user>": "condensenet",
            "<database password>": self.password,
            "<database host>": self.database,
            "<password>": "a-long-password",
            "<mlflow user>": "someone",
            "<mlflow password>": "a-long-password",
            "<store>": STORE["AWS_ENDPOINT_URL"],
            "<key>": STORE["AWS_ACCESS_KEY_ID"],
            "<secret>": STORE["AWS_SECRET_ACCESS_KEY"],
            "<repository>": str(self.root / "origin.git"),
            "<folder>": str(self.root / "clone"),
            "<id>": "",
        }

    def fill_in(self, command: str) -> str:
        for name, value in self.names.items():
            if name in command:
                self.used.add(name)
                command = command.replace(name, self.find_run() if name == "<id>" else value)
        return command


def _finished_run() -> str:
    url = "http://127.0.0.1:5000/api/2.0/mlflow"
    with urllib.request.urlopen(f"{url}/experiments/search?max_results=10") as response:
        experiments = [each["experiment_id"] for each in json.load(response)["experiments"]]
    a_setting_s = "tags.`mlflow.parentRunId` LIKE '%'"  # a study's has no model
    query = {"experiment_ids": experiments, "filter": f"attributes.status = 'FINISHED' AND {a_setting_s}"}
    body = json.dumps(query).encode()
    request = urllib.request.Request(f"{url}/runs/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        run_id: str = json.load(response)["runs"][0]["info"]["run_id"]
        return run_id


class Shell:
    """One section's shell: folder and variables go from a command to the next."""

    def __init__(self, folder: Path, variables: dict[str, str], logs: Path) -> None:
        self.folder, self.variables, self._logs = folder, dict(variables), logs

    def run(self, command: str) -> str | None:
        """None, or the end of what the command printed if it failed."""
        after = self._logs / "after"
        script = f"set -euo pipefail\n{command}\n{{ pwd; env -0; }} > {shlex.quote(str(after))}"
        process, log = self._start(script)
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"{_end_of(log)}\nnot done after {LIMIT_S} s"
        if status == 0:
            folder, _, variables = after.read_text().partition("\n")
            self.folder = Path(folder)
            self.variables = dict(each.split("=", 1) for each in variables.split("\0") if each)
            return None
        return _end_of(log)

    def serve(self, command: str, address: str | None) -> str | None:
        process, log = self._start(command)
        deadline = time.monotonic() + 240
        time.sleep(0 if address else 8)
        while process.poll() is None and time.monotonic() < deadline:
            if address is None or answers(address):
                return None
            time.sleep(0.5)
        return _end_of(log)

    def _start(self, script: str) -> tuple[subprocess.Popen[bytes], Path]:
        """The process, in a session of its own, and the file with what it prints."""
        log = self._logs / f"{time.time_ns()}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, log


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.operators", description=__doc__.splitlines()[0])
    parser.add_argument(
        "words", nargs="*", type=str.lower, metavar="WORD", help="only sections with one in their title"
    )
    words = parser.parse_args().words
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all ends that was started
    up_to_date = subprocess.run(["make", "--question", "env"], cwd=CHECKOUT, capture_output=True, check=False)
    if up_to_date.returncode != 0:
        sys.exit("error: the environment is not up to date: make env")
    document = (CHECKOUT / "docs" / "OPERATORS.md").read_text(encoding="utf-8")
    all_steps = [step for step in steps(document) if not words or any(word in step.section.lower() for word in words)]
    with places() as operator:
        used = run_all(all_steps, operator)
        unused = (set(SERVERS) | set(LEFT_OUT) | set(operator.names)) - used - operator.used
    if unused and not words:
        sys.exit(f"error: no command uses {', '.join(sorted(unused))}: remove it from {__file__}")


def run_all(all_steps: list[Step], operator: Places) -> set[str]:
    """Run them and say so; exits at the first that fails. Returns the rules that were used."""
    used, shell, section, count = set[str](), None, "", 0
    for step in all_steps:
        if step.section != section or shell is None:
            section = step.section
            print(f"\n{section}", flush=True)
            shell = Shell(operator.root / "checkout", variables(operator.root), operator.root / "logs")
        reason = _match(LEFT_OUT, step.command, used)
        if reason:
            print(f"  left out: {_short(step.command)} ({reason})", flush=True)
            continue
        command, began = operator.fill_in(step.command), time.monotonic()
        shell.variables |= STORE if re.search(NODE, command) else {}
        shell.folder = operator.device if command.startswith("c/bin/") else shell.folder
        server = next((rule for rule in SERVERS if re.search(rule, command)), None)
        if server:
            used.add(server)
            problem = shell.serve(command, SERVERS[server])
        else:
            problem = shell.run(command)
        print(f"  {time.monotonic() - began:5.0f} s  {_short(step.command)}", flush=True)
        if problem is not None:
            sys.exit(f"{problem}\nerror: docs/OPERATORS.md, {section}: this command failed: {command}")
        count += 1
    print(f"\n{count} commands ran", flush=True)
    return used


def _match(rules: dict[str, str], command: str, used: set[str]) -> str | None:
    for rule, meaning in rules.items():
        if re.search(rule, command):
            used.add(rule)
            return meaning
    return None


def _short(command: str) -> str:
    line = re.sub(r"\s+#\s.*", "", command.replace("\\\n", " "))
    return re.sub(r"\s+", " ", line)[:110]


def variables(root: Path) -> dict[str, str]:
    """The environment of a new shell."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join([str(root / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {
        "PATH": path,
        "HOME": str(root / "home"),
        "RAY_TMPDIR": str(root / "r"),
        MARK: str(root),
        "PYTHONPATH": "",
        **telemetry.OFF,
        "PREFECT_CLI_PROMPT": "false",
        **{f"GIT_{who}_{what}": "operator@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "push.autoSetupRemote",
        "GIT_CONFIG_VALUE_0": "true",
    }
    return {**kept, **own}


@contextmanager
def places() -> Iterator[Places]:
    """All that the document takes for granted; at the end nothing of it runs."""
    root = Path(tempfile.mkdtemp(prefix="cn-op-"))
    root.chmod(0o711)
    for name in ("bin", "home", "logs", "pi5", "shared", "srv", "r", "database"):
        (root / name).mkdir()
    try:
        _make_checkout(root)
        _stand_in(root / "bin" / "ssh", f'shift; cd {root}/pi5 && exec bash -c "$*"')
        _stand_in(root / "bin" / "scp", f'cp "${{@:1:$#-1}}" {root}/pi5')
        os.environ[MARK] = str(root)
        database = _start_database(root)
        _start_store(root)
        yield database
    finally:
        os.environ.pop(MARK, None)
        kill_all([process for process in psutil.process_iter() if _is_ours(process, root)])
        if "KEEP" in os.environ:
            print(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


def _make_checkout(root: Path) -> None:
    """A copy with one setting of the digits, two epochs and small tables, and a repository to push to."""
    workspace = copy_checkout(CHECKOUT, root / "checkout")
    for name in ("params.yaml", "conf/study/digits.yaml", "conf/base.yaml"):
        yaml, path = YAML(), root / "checkout" / name
        content = yaml.load(path)
        if name != "conf/base.yaml":
            content["settings"] = {"g4-c4": content["settings"]["g4-c4"]}
            content["train"]["epochs"] = 2
        if "tables" in content:
            content["tables"].update(image_size=64, networks=["mobilenet_v2"])
        yaml.dump(content, path)
    (root / "checkout" / ".venv").symlink_to(CHECKOUT / ".venv")
    for library in CHECKOUT.glob("condensenet/**/*.so"):
        shutil.copy2(library, root / "checkout" / library.relative_to(CHECKOUT))
    workspace.run("git", "init", "--quiet", "--bare", str(root / "origin.git"))
    workspace.run("git", "remote", "add", "origin", str(root / "origin.git"))
    with (root / "checkout" / ".git" / "info" / "exclude").open("a") as file:
        file.write(".venv\n")  # .gitignore names a folder, and this is a link
    workspace.commit("A small study")


def _stand_in(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\nset -e\n{script}\n")
    path.chmod(0o755)


def _start_database(root: Path) -> Places:
    ports = Ports(postgres=free_ports(1)[0])
    folder = root / "database"
    folder.chmod(0o711)
    cluster = Cluster(CHECKOUT, folder, ports, Passwords.of(folder))
    server = postgres_server(cluster)
    server.prepare()
    server.start(folder / "log")
    while not server.ready():
        time.sleep(0.1)
    return Places(root, f"127.0.0.1:{ports.postgres}", cluster.passwords.postgres, _finished_run)


def _start_store(root: Path) -> None:
    with (root / "logs" / "store.log").open("wb") as log:
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", "7071"]
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    while not listens("127.0.0.1", 7071):
        time.sleep(0.1)
    bucket = [sys.executable, "-m", "cluster.bucket", "bucket"]
    subprocess.run(bucket, env={**os.environ, **STORE}, check=True, cwd=CHECKOUT)


def _is_ours(process: psutil.Process, root: Path) -> bool:
    with suppress(psutil.Error):
        return process.pid != os.getpid() and process.environ().get(MARK) == str(root)
    return False


if __name__ == "__main__":
    main()
