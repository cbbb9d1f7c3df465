"""Three machines on this one: network namespaces joined by a bridge, a Ray node in each.

In each the host's own name is an address of the loopback, as Debian writes it into /etc/hosts.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tasks.private_files import write_private
from tasks.ray_head import kill_all
from tasks.ray_local import ATTEMPTS, OPTIONS

HUB, NODES, PORT = "hub", ("head", "left", "right"), 6379
HIDE = 'while [ "$1" != -- ]; do mount -t tmpfs none "$1" || exit 1; shift; done; shift; exec "$@"'
LOCAL = OPTIONS[2:]  # without the loopback's address


def why_not() -> str | None:
    """Why this machine cannot do it."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need Linux, root and the command ip"
    name = f"cn-{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return "network namespaces are not allowed here"
    run("ip", "netns", "delete", name)
    return None


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Nodes:
    """The three machines; ``start`` and ``kill`` Ray on each of them by its name."""

    def __init__(self, folder: Path) -> None:
        self.prefix = f"cn{secrets.token_hex(2)}"
        self.address = f"10.77.0.1:{PORT}"
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        write_private(folder / "token", secrets.token_hex(32))
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        self.hidden: list[Path] = []  # folders that nodes started from now on find empty

    def namespace(self, node: str) -> str:
        return f"{self.prefix}-{node}"

    def inside(self, node: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace(node), *command]

    def start(self, node: str) -> None:
        """Start Ray there and wait until it has joined; again if that takes Ray too long, as on a busy machine."""
        for _ in range(ATTEMPTS):
            self._launch(node)
            while self._running[node].poll() is None:
                if "Ray runtime started" in self._log(node).read_text():
                    return
                time.sleep(0.1)
            self.kill(node)
        raise AssertionError(self._log(node).read_text())

    def _log(self, node: str) -> Path:
        return self._folder / f"{node}.log"

    def _launch(self, node: str) -> None:
        number = NODES.index(node) + 1
        role = ("--head", f"--port={PORT}") if node == "head" else (f"--address={self.address}",)
        cpus = 0 if node == "head" else 1  # so that two workers need two nodes
        options = [option for option in LOCAL if node == "head" or not option.startswith(("--include-", "--no-"))]
        command = self.inside(
            node,
            *("sh", "-c", HIDE, "sh", *map(str, self.hidden), "--"),
            *("ray", "start", "--block", *role, f"--num-cpus={cpus}", "--num-gpus=0", *options),
            *(f"--node-ip-address=10.77.0.{number}", f"--temp-dir={self._folder / node}"),
        )
        log = self._log(node).open("wb")
        environment = {**os.environ, **self.variables, "CONDENSENET_CACHE": str(self._folder / f"cache-{node}")}
        if self.hidden:
            environment.pop("PYTHONPATH", None)
        self._running[node] = subprocess.Popen(
            command, env=environment, cwd="/", stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self, node: str) -> None:
        """Kill Ray there, all its processes at once; a stage on that machine lives on."""
        process = self._running.pop(node)
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            kill_all([*root.children(recursive=True), root])
        process.wait()
        shutil.rmtree(self._folder / node, ignore_errors=True)

    def kill_raylet(self, node: str) -> None:
        """Kill the raylet alone; what it started ends without it."""
        process = psutil.Process(self._running[node].pid)
        next(child for child in process.children() if child.name() == "raylet").kill()
        self._running[node].wait(60)
        self.kill(node)


@contextmanager
def three_nodes(folder: Path) -> Iterator[Nodes]:
    """The namespaces without Ray; at the end nothing is left of them."""
    nodes = Nodes(folder)
    try:
        _connect(nodes)
        yield nodes
    finally:
        for node in list(nodes._running):
            nodes.kill(node)
        for name in (HUB, *NODES):
            subprocess.run(["ip", "netns", "delete", nodes.namespace(name)], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / nodes.namespace(name), ignore_errors=True)
        with suppress(OSError):
            Path("/etc/netns").rmdir()


def _connect(nodes: Nodes) -> None:
    hub = nodes.namespace(HUB)
    run("ip", "netns", "add", hub)
    run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
    run("ip", "-n", hub, "link", "set", "bridge", "up")
    for number, node in enumerate(NODES, 1):
        own = nodes.namespace(node)
        run("ip", "netns", "add", own)
        run("ip", "-n", hub, "link", "add", f"to-{node}", "type", "veth", "peer", "name", "wire0", "netns", own)
        run("ip", "-n", hub, "link", "set", f"to-{node}", "master", "bridge", "up")
        run("ip", "-n", own, "address", "add", f"10.77.0.{number}/24", "dev", "wire0")
        run("ip", "-n", own, "link", "set", "wire0", "up")
        run("ip", "-n", own, "link", "set", "lo", "up")
        hosts = Path("/etc/netns") / own / "hosts"  # `ip netns exec` puts it over /etc/hosts
        hosts.parent.mkdir(parents=True)
        hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n")
