"""Watch Ray's own processes while a training runs: Ray itself waits for up to a minute when one dies, then aborts."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tasks.ray_head import kill_descendants
from tasks.server_addresses import listens

REACHABLE_S = 10.0
WATCH_S = 0.5
PATIENCE_S = 10.0
AGAIN = "run it again to resume from the last checkpoint"


def abandon() -> None:
    """Kill what this process has started, a Ray of its own with all workers; another's ends them when we are gone."""
    _ending.set()
    kill_descendants()


@dataclass(frozen=True)
class Essential:
    """A process of Ray without which this one cannot go on, and where it listens."""

    name: str
    host: str
    port: int

    @property
    def local(self) -> bool:
        return self.host.startswith("127.")


_essential: list[Essential] = []
_ending = threading.Event()  # Ray's processes may go


def _find() -> list[Essential]:
    """The head's server and the raylet of this machine."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == own)
    raylet = Essential("Ray's raylet", node["NodeManagerAddress"], node["NodeManagerPort"])
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    head = Essential(f"Ray's head at {host}:{port}", host, int(port))
    return [raylet, head] if raylet.local else [head, raylet]  # what is named if both are gone


def lost() -> str | None:
    """What is wrong if an essential process does not answer."""
    for each in _essential:
        if not listens(each.host, each.port, REACHABLE_S):
            return f"{each.name} was killed" if each.local else f"{each.name} is gone: killed, or not to be reached"
    return None


@contextmanager
def watched() -> Iterator[None]:
    """Exit soon when Ray's own processes are gone: Ray would wait for up to a minute, then abort.

    On this machine nothing restarts them. A head elsewhere may come back, if Ray was set up for it.
    """

    def watch() -> None:
        last_seen = time.monotonic()
        while not _ending.wait(WATCH_S):
            what = lost()
            if what is None:
                last_seen = time.monotonic()
            elif not _ending.is_set() and (all_local() or time.monotonic() - last_seen > PATIENCE_S):
                with suppress(BrokenPipeError):
                    print(f"error: {what}: {AGAIN}", file=sys.stderr, flush=True)
                abandon()
                os._exit(1)

    def all_local() -> bool:
        return all(each.local for each in _essential)

    _essential[:] = _find()
    _ending.clear()
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        _ending.set()
        _essential.clear()
