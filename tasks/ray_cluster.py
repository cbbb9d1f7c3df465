"""Training on Ray Train: on the cluster that RAY_ADDRESS names, on the Ray that a flow offers, or on one of our own.

Ray takes over the signals of a main thread that calls it, so every call is made in another one.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import condensenet
import tasks
from tasks import object_store, ray_local
from tasks.console import say
from tasks.errors import UserError, first_line
from tasks.object_store import ObjectStore
from tasks.params import RayParams
from tasks.ray_messages import THREADS, brief_messages
from tasks.ray_watch import AGAIN, REACHABLE_S, WATCH_S, lost, watched
from tasks.server_addresses import listens
from tasks.storage import SharedFolder, open_storage

T = TypeVar("T")
JOIN_S, JOIN_POLL_S = 120.0, 0.5  # for the nodes of a cluster that has just been started
EXCLUDED = ["__pycache__", "*.pyc"]
SIGNALS_S = 0.2  # a signal that reaches another thread is handled after that time at the latest


@contextmanager
def cluster(params: RayParams) -> Iterator[None]:
    """Connect to a cluster; raises ``UserError`` if there is none, or it lacks what ``params`` ask for."""
    for name, value in ray_local.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address := os.environ.get("RAY_ADDRESS"):
        with _connected(address, params, elsewhere=True):
            yield
    elif offered := os.environ.get(ray_local.VARIABLE):
        with _connected(_join(Path(offered)), params):
            yield
    else:
        with ray_local.LocalRay(params.max_workers * params.threads_per_worker, gpus=params.use_gpu) as own:
            os.environ.update(own.variables)
            try:
                with _connected(_join(own.folder), params):
                    yield
            finally:
                del os.environ[ray_local.VARIABLE]


def _join(folder: Path) -> str:
    """The address of the Ray that is offered there; it starts while we import it."""
    ray_local.ask(folder)
    import_module("ray.train")
    return ray_local.join(folder)


def train(worker: Callable[[Any], None], job: Any, params: RayParams, storage: Path | ObjectStore) -> str | None:
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
            storage_path=storage.path if isinstance(storage, ObjectStore) else str(storage),
            storage_filesystem=object_store.filesystem() if isinstance(storage, ObjectStore) else None,
            failure_config=FailureConfig(max_failures=params.max_failures),
        ),
    )
    try:
        in_thread(trainer.fit)
    except TrainingFailedError as error:
        return _reason(error)
    except ray.exceptions.RayError as error:  # the controller of the workers was lost
        time.sleep(WATCH_S)  # what died may still look alive
        return lost() or first_line(error).partition(". ")[0]
    return None


@contextmanager
def _connected(address: str, params: RayParams, *, elsewhere: bool = False) -> Iterator[None]:
    if elsewhere:
        _check_reachable(address)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        in_thread(
            lambda: ray.init(
                address,
                log_to_driver=False,
                logging_level="error",
                configure_logging=False,
                runtime_env=_runtime_env(params) if elsewhere else None,
            )
        )
    except (ConnectionError, RuntimeError) as error:
        if not elsewhere:
            raise UserError(f"the Ray that was started for this has died: {first_line(error)}; {AGAIN}") from None
        raise UserError(
            f"RAY_ADDRESS={address}: {first_line(error)}; "
            f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')}: a cluster with tokens needs token"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's core has installed one below Python's
    with brief_messages():
        try:
            _check_resources(params, JOIN_S if elsewhere else 0)
            with watched():
                yield
        finally:
            in_thread(ray.shutdown)


def in_thread(call: Callable[[], T]) -> T:
    """What ``call``, which calls Ray, returns or raises."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name=f"{THREADS}call", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(SIGNALS_S)
    return future.result()


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
    if not listens(host, int(port), REACHABLE_S):
        raise UserError(f"RAY_ADDRESS={address} is not allowed: nothing listens there")


def _runtime_env(params: RayParams) -> dict[str, Any]:
    """Our code, for nodes that do not see the checkout."""
    if params.storage is None or isinstance(open_storage(params.storage), SharedFolder):
        return {}
    return {"py_modules": [str(Path(module.__path__[0])) for module in (condensenet, tasks)], "excludes": EXCLUDED}


def _check_resources(params: RayParams, wait_s: float) -> None:
    """Wait for nodes that are still joining."""
    import ray

    need = {"CPU": params.min_workers * params.threads_per_worker, "GPU": params.min_workers * params.use_gpu}
    deadline, told = time.monotonic() + wait_s, False
    while True:
        have = ray.cluster_resources()
        short = next((kind for kind, count in need.items() if have.get(kind, 0) < count), None)
        if short is None:
            return
        lack = f"they need {need[short]} {short}s, the cluster has {have.get(short, 0):g}"
        if time.monotonic() > deadline:
            raise UserError(f"ray.num_workers={params.num_workers} is not allowed: {lack}")
        if not told:
            say(f"waiting {wait_s:.0f} s for nodes to join: {params.min_workers} workers are wanted, and {lack}")
            told = True
        time.sleep(JOIN_POLL_S)
