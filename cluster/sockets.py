"""What a local cluster listens on beyond the loopback. Only Ray does, and each of its ports asks for the token."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

SAMPLE_S = 0.5
# Ray's gRPC servers listen on all interfaces whatever address a node has: these, its workers, and drivers.
RAY = {"gcs_server": 1, "raylet": 2}
DRIVER = "tasks.train"


def exposed(root: int) -> set[str]:
    """Ports beyond the loopback that are none of Ray's, of the process ``root`` and all that it has started."""
    found: set[str] = set()
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(root)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                ports = _ports(process)
                if len(ports) > _guarded(process):
                    found.add(f"{process.name()} (process {process.pid}) on {', '.join(ports)}")
    return found


@contextmanager
def watched(root: int) -> Iterator[set[str]]:
    """Look again and again while the block runs; all that was seen is in the set at its end."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(SAMPLE_S):
            seen.update(exposed(root))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _ports(process: psutil.Process) -> list[str]:
    return [
        f"{connection.laddr.ip}:{connection.laddr.port}"
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and not ipaddress.ip_address(connection.laddr.ip).is_loopback
    ]


def _guarded(process: psutil.Process) -> int:
    """How many ports of the process Ray's token guards."""
    if process.name().startswith("ray::") or DRIVER in process.cmdline():
        return 1
    return RAY.get(process.name(), 0)
