"""The Ray cluster that training runs on: the one that RAY_ADDRESS names, or a small private one.

Our own cluster runs without a dashboard, preemption watcher, autoscaler and dataset manager, because each of Ray's
helper processes adds seconds of start-up. It listens on this machine only and ends with this process.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

ENVIRONMENT = {  # read by Ray when it is imported and by the processes that it starts
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller starts and ends a training by polling
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a busy machine starts processes slowly
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",  # workers of a training need an environment of their own
    "RAY_prestart_worker_first_driver": "0",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

import ray  # noqa: E402
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError  # noqa: E402
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy  # noqa: E402
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # noqa: E402

from condensenet.file_locks import lock, try_lock, unlock  # noqa: E402
from tasks import paths  # noqa: E402
from tasks.errors import UserError  # noqa: E402
from tasks.params import RayParams  # noqa: E402

LOOPBACK = "127.0.0.1"
REACHABLE_S = 10.0
OBJECT_STORE_BYTES = 100 << 20  # nothing large passes through Ray
PREFIX = "cn-ray-"
START_LOCK = "ray-start.lock"
START_ATTEMPTS = 3
ESSENTIAL = ("raylet", "gcs_server")  # without either of them a cluster is dead
WATCH_S = 0.5
NEW_S = 60.0  # a folder this young may be about to be locked
_ending = threading.Event()  # we kill Ray's processes ourselves
_folder: str | None = None  # of our own cluster: its sockets and logs
LEFT_OUT = ("DatasetsCallback", "PlacementGroupCleanerCallback")


@contextmanager
def cluster(params: RayParams) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or start one; raises ``UserError`` if it lacks what ``params`` ask for."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    with _own_sigterm():
        if is_external():
            _check_reachable(os.environ["RAY_ADDRESS"])
            _connect(quiet)
        else:
            _start(params, quiet)
    try:
        _check_resources(params)
        with nullcontext() if is_external() else _watched():
            yield
    finally:
        ray.shutdown()
        _remove_folder()


@contextmanager
def _watched() -> Iterator[None]:
    """Exit at once when Ray's own processes are gone: Ray would wait for up to a minute, then abort."""
    import psutil

    essential = {child: child.name() for child in psutil.Process().children() if child.name() in ESSENTIAL}

    def watch() -> None:
        while not _ending.wait(WATCH_S):
            lost = [name for process, name in essential.items() if _is_gone(process)]
            if lost and not _ending.is_set():
                line = f"error: Ray's {lost[0]} was killed: run it again to resume from the last checkpoint"
                with suppress(BrokenPipeError):
                    print(line, file=sys.stderr, flush=True)
                abandon()
                os._exit(1)

    _ending.clear()
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        _ending.set()


def _is_gone(process: Any) -> bool:
    import psutil

    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler: Ray's replacements exit or abort in the middle of a call."""
    put, ray._private.utils.set_sigterm_handler = ray._private.utils.set_sigterm_handler, lambda _handler: None
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = put
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's core installs one below Python's


def _start(params: RayParams, options: dict[str, Any]) -> None:
    """Start our own cluster, one at a time on this machine, and retry if the machine was too busy.

    Ray's processes must be up in half a minute, which clusters that start together on two cores do not manage.
    """
    global _folder
    paths.state().mkdir(parents=True, exist_ok=True)
    with (paths.state() / START_LOCK).open("a") as starting:
        lock(starting)
        for attempt in range(1, START_ATTEMPTS + 1):
            _folder = _new_folder()
            try:
                ray.init(
                    address="local",
                    num_cpus=params.num_workers * params.threads_per_worker,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=_folder,
                    _node_ip_address=LOOPBACK,
                    **options,
                )
                break
            except Exception as error:  # Ray raises no narrower one
                abandon()
                if attempt == START_ATTEMPTS:
                    raise UserError(f"Ray did not start in {attempt} attempts: {error}") from error
        unlock(starting)  # Ray's processes may hold the file open


def abandon() -> None:
    """Kill the processes of our own cluster at once, whatever they are doing."""
    import psutil

    _ending.set()
    children = psutil.Process().children(recursive=True)
    for process in children:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(children, timeout=5)
    _remove_folder()


def _new_folder() -> str:
    """A new folder, locked while this process lives. Its path is short because it holds sockets.

    Folders of processes that were killed are removed.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or another process is at the same
            descriptor = os.open(old, os.O_RDONLY)
            try:
                if try_lock(descriptor) and time.time() - old.stat().st_mtime > NEW_S:
                    shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(descriptor)
    folder = tempfile.mkdtemp(prefix=PREFIX)
    lock(os.open(folder, os.O_RDONLY))
    return folder


def _remove_folder() -> None:
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)


def _connect(options: dict[str, Any]) -> None:
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise UserError(
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {error}; "
            f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')}: a cluster with tokens needs token"
        ) from None


def is_external() -> bool:
    return bool(os.environ.get("RAY_ADDRESS"))


def train(worker: Callable[[Any], None], job: Any, params: RayParams, storage: Path) -> str | None:
    """Run ``worker({"job": job})`` in every worker; a lost worker restarts all, ``max_failures`` times.

    Returns None, or in one line why the training failed.
    """
    trainer_class = _Trainer if is_external() else _LocalTrainer
    trainer = trainer_class(
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
        trainer.fit()
    except TrainingFailedError as error:
        return _reason(error)
    except ray.exceptions.RayError as error:  # the controller of the workers was lost
        return str(error).partition(". ")[0]
    return None


def _reason(error: TrainingFailedError) -> str:
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
    have = ray.cluster_resources()
    need = {"CPU": params.num_workers * params.threads_per_worker, "GPU": params.num_workers * params.use_gpu}
    for kind, count in need.items():
        if have.get(kind, 0) < count:
            raise UserError(
                f"ray.num_workers={params.num_workers} is not allowed: they need {count} {kind}s, "
                f"the cluster has {have.get(kind, 0):g}"
            )


class _FixedSize(FixedScalingPolicy):
    """Without the actor that asks an autoscaler for machines: a cluster of one process has none."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _Trainer(DataParallelTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the stage: when its process ends, so do the workers."""


class _LocalTrainer(_Trainer):
    """Without the actors that serve Ray Data sets and that clean up after us in a shared cluster."""

    def _create_default_callbacks(self) -> list[Any]:
        return [call for call in super()._create_default_callbacks() if type(call).__name__ not in LEFT_OUT]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        return super()._initialize_and_run_controller(
            **{**arguments, "scaling_policy": _FixedSize(self.scaling_config)}
        )
