"""Training on Ray Train: on the cluster that RAY_ADDRESS names, on the Ray that a flow offers, or on one of our own.

Ray takes over the signals of a main thread that calls it, so every call is made in another one.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks import ray_local
from tasks.errors import UserError, first_line
from tasks.params import RayParams
from tasks.ray_head import kill_descendants

T = TypeVar("T")
REACHABLE_S = 10.0
WATCH_S = 0.5
AGAIN = "run it again to resume from the last checkpoint"
_ending = threading.Event()  # Ray's processes may go


@contextmanager
def cluster(params: RayParams) -> Iterator[None]:
    """Connect to a cluster; raises ``UserError`` if there is none, or it lacks what ``params`` ask for."""
    for name, value in ray_local.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ.get("RAY_ADDRESS"):
        with _connected(os.environ["RAY_ADDRESS"], params):
            yield
    elif offered := os.environ.get(ray_local.VARIABLE):
        with _connected(ray_local.join(Path(offered)), params):
            yield
    else:
        with ray_local.LocalRay(params.num_workers * params.threads_per_worker, gpus=params.use_gpu) as own:
            os.environ.update(own.variables)
            try:
                with _connected(ray_local.join(own.folder), params):
                    yield
            finally:
                del os.environ[ray_local.VARIABLE]


def abandon() -> None:
    """Kill what this process has started, a Ray of its own with all workers; another's ends them when we are gone."""
    _ending.set()
    kill_descendants()


def train(worker: Callable[[Any], None], job: Any, params: RayParams, storage: Path) -> str | None:
    """Run ``worker({"job": job})`` in every worker; a lost worker restarts all, ``max_failures`` times.

    Returns None, or in one line why the training failed.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    trainer = DataParallelTrainer(
        worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=params.num_workers,
            use_gpu=params.use_gpu,
            resources_per_worker={"CPU": params.threads_per_worker, **({"GPU": 1} if params.use_gpu else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=params.max_failures),
        ),
    )
    try:
        _in_thread(trainer.fit)
    except TrainingFailedError as error:
        return _reason(error)
    except ray.exceptions.RayError as error:  # the controller of the workers was lost
        return first_line(error).partition(". ")[0]
    return None


@contextmanager
def _connected(address: str, params: RayParams) -> Iterator[None]:
    _check_reachable(address)
    import ray
    import ray.train  # meanwhile nothing waits for us

    logging.getLogger("ray").setLevel(logging.ERROR)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _in_thread(lambda: ray.init(address, log_to_driver=False, logging_level="error", configure_logging=False))
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"RAY_ADDRESS={address}: {first_line(error)}; "
            f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')}: a cluster with tokens needs token"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's core has installed one below Python's
    try:
        _check_resources(params)
        with _watched(_essential(address)):
            yield
    finally:
        _in_thread(ray.shutdown)


def _in_thread(call: Callable[[], T]) -> T:
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result()


@dataclass(frozen=True)
class Essential:
    """A process of Ray without which this one cannot go on, and where it listens."""

    name: str
    host: str
    port: int


def _essential(address: str) -> list[Essential]:
    """The head's server and the raylet of this machine."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == own)
    found = [Essential("Ray's raylet", node["NodeManagerAddress"], node["NodeManagerPort"])]
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return [*found, Essential(f"Ray's head at {host}:{port}", host, int(port))]


@contextmanager
def _watched(essential: Sequence[Essential]) -> Iterator[None]:
    """Exit at once when Ray's own processes are gone: Ray would wait for up to a minute, then abort."""

    def watch() -> None:
        while not _ending.wait(WATCH_S):
            lost = [each.name for each in essential if not ray_local.answers(each.host, each.port, REACHABLE_S)]
            if lost and not _ending.is_set():
                with suppress(BrokenPipeError):
                    print(f"error: {lost[0]} was killed: {AGAIN}", file=sys.stderr, flush=True)
                abandon()
                os._exit(1)

    _ending.clear()
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        _ending.set()


def _reason(error: Exception) -> str:
    """The last line of a worker's error; the rest is Ray's context."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    lines = [line for line in str(next(iter(failures.values()))).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _check_reachable(address: str) -> None:
    """Fail at once; Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto" and the like
    try:
        socket.create_connection((host, int(port)), REACHABLE_S).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS={address} is not allowed: nothing listens there ({error})") from None


def _check_resources(params: RayParams) -> None:
    import ray

    have = ray.cluster_resources()
    need = {"CPU": params.num_workers * params.threads_per_worker, "GPU": params.num_workers * params.use_gpu}
    for kind, count in need.items():
        if have.get(kind, 0) < count:
            raise UserError(
                f"ray.num_workers={params.num_workers} is not allowed: they need {count} {kind}s, "
                f"the cluster has {have.get(kind, 0):g}"
            )
