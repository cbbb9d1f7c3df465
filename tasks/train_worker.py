"""What runs in each Ray worker. No Ray Data, MLflow, Prefect or torchvision: a worker should start fast.

Workers and the stage share a storage, the training's own: checkpoints, ``history.csv`` after every epoch, messages
for the user, and finally ``model.pt``, ``paused.txt`` or ``error.txt``. Only rank 0 writes there, except for ``stop``,
which the stage writes, and an error of another rank.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import sys
import traceback
import uuid
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig
from condensenet.files import Storage, is_permanent_write_error
from tasks import paths
from tasks.node_data import loader_threads, on_this_node, open_data
from tasks.object_store import ObjectStore
from tasks.outputs import as_csv, as_json
from tasks.storage import SharedFolder

if TYPE_CHECKING:
    from condensenet.training import EpochResult

CHECKPOINTS = "checkpoints"
MESSAGES = "messages.txt"
ERROR = "error.txt"  # first line: the message for the user
RESERVE = "reserve"  # space for the error message on a full disk
RESERVE_BYTES = 16384
STOP = "stop"  # the stage asks rank 0 to save and end
PAUSED = "paused.txt"  # it did: names the step
ENVIRONMENT = "environment.json"  # on which the last bits of the weights depend
LOCK = "lock"  # held by the rank 0 that trains
LOCK_WAIT_S = 120.0  # for the rank 0 of a killed stage to end


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, as it travels to the workers."""

    folder: Path  # absolute: the stage's own
    data: Path  # absolute
    store: ObjectStore | None = None  # used in place of the folder by workers that do not see it
    data_store: ObjectStore | None = None  # a copy of the data for them
    model: ModelConfig
    train: TrainConfig
    augment: AugmentConfig
    threads: int  # that compute, without a GPU
    loader_threads: int = 1
    use_gpu: bool
    initial: bytes | None = None  # the content of a model file to start from

    @property
    def storage(self) -> SharedFolder | ObjectStore:
        return self.store or SharedFolder(self.folder)


def run(config: dict[str, Any]) -> None:
    """Train as one of Ray Train's workers. Errors that a restart cannot fix go to ``error.txt``."""
    job: Job = config["job"]
    if job.storage.exists(ERROR):  # a restart by Ray would fail in the same way
        return
    import torch.distributed as dist

    rank = None
    try:
        with on_this_node(job.data, job.data_store) as data:
            rank = start_process_group(job)
            if rank is None:
                return
            with job.storage.exclusive(LOCK, LOCK_WAIT_S) if rank == 0 else nullcontext(job.storage) as storage:
                _train(replace(job, data=data, store=storage if isinstance(storage, ObjectStore) else None), rank)
    except Exception as error:
        if _is_pause(error):
            if rank == 0:
                job.storage.write(PAUSED, str(error).encode())
            return
        if _is_final(error):
            with suppress(OSError):  # still no space: Ray reports the error
                job.storage.delete(RESERVE)
                job.storage.write(ERROR, f"{_message(error)}\n{traceback.format_exc()}".encode())
        raise
    dist.destroy_process_group()


def _train(job: Job, rank: int) -> None:
    import torch

    from condensenet.models.condensenet import CondenseNet
    from condensenet.models.storage import model_file, parse_model
    from condensenet.training import checkpoint, fit, start_from

    torch.set_num_threads(1 if job.use_gpu else job.threads)  # each thread that loads images would have as many
    torch.backends.cudnn.benchmark = job.use_gpu  # every step has the same shapes: cuDNN tries its kernels once
    device, storage = torch.device("cuda" if job.use_gpu else "cpu"), job.storage
    if rank == 0:
        _log_to(storage)
        storage.write(ENVIRONMENT, as_json(checkpoint.environment(device)).encode())
    torch.manual_seed(job.train.seed)
    threads = loader_threads(job.data, job.loader_threads)  # first: it may renew the connections to the store
    data = open_data(job.data)
    model = CondenseNet(job.model)
    if job.initial is not None:
        start_from(model, parse_model(job.initial, "the initial model"))
    history: list[EpochResult] = []
    with storage.appearance(STOP) if rank == 0 else nullcontext(None) as stop:
        for epoch in fit(
            model,
            data,
            job.augment,
            job.train,
            checkpoints=storage.within(CHECKPOINTS),
            device=device,
            stop=stop,
            loader_threads=threads,
        ):
            history.append(epoch)
            if rank == 0:
                storage.write(paths.HISTORY, as_csv(as_rows(history)).encode())
    if rank == 0:
        storage.write(paths.MODEL, model_file(model))


def as_rows(history: Sequence[EpochResult]) -> list[dict[str, float | str]]:
    """A row an epoch, as ``history.csv`` holds them."""
    return [{name: _shown(value) for name, value in dataclasses.asdict(epoch).items()} for epoch in history]


def _shown(value: float) -> float | str:
    return f"{value:.6g}" if isinstance(value, float) else value


def _is_pause(error: Exception) -> bool:
    from condensenet.training import TrainingPaused

    return isinstance(error, TrainingPaused)


def _is_final(error: Exception) -> bool:
    """Whether a restart would fail again: bad parameters or data, a diverged loss, a full disk."""
    from condensenet.training import TrainingFailed

    return isinstance(error, TrainingFailed | ValueError) or is_permanent_write_error(error)


def _message(error: Exception) -> str:
    """The message for the user; never empty."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def start_process_group(job: Job) -> int | None:
    """Join the other workers: gloo on CPUs, NCCL on GPUs. Returns the rank; None if this worker is not needed.

    On one machine they meet through a file, and all traffic stays on the loopback. On several, rank 0 listens on the
    address by which Ray knows its node.
    """
    import ray.train
    import torch.distributed as dist
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    rank, address = context.get_world_rank(), ray.util.get_node_ip_address()
    os.environ["LOCAL_WORLD_SIZE"] = str(context.get_local_world_size())
    size = usable_workers(context.get_world_size(), job.train.batch_size // job.train.gradient_accumulation)
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # else both trust what the host's name resolves to
        os.environ.setdefault(variable, interface(address))
    listener = None
    if address.startswith("127."):
        meeting = broadcast_from_rank_zero(f"{job.folder}/meeting-{uuid.uuid4().hex}" if rank == 0 else None)
    else:
        listener = _listen(address) if rank == 0 else None
        meeting = broadcast_from_rank_zero(listener.getsockname()[:2] if listener else None)
    if rank >= size:
        return None
    store: dist.Store
    if isinstance(meeting, str):
        store = dist.FileStore(meeting, size)
    else:
        (host, port), descriptor = meeting, listener.detach() if listener else None
        store = dist.TCPStore(host, port, size, is_master=rank == 0, master_listen_fd=descriptor)
    dist.init_process_group("nccl" if job.use_gpu else "gloo", store=store, rank=rank, world_size=size)
    return rank


def usable_workers(workers: int, images: int) -> int:
    """How many of ``workers`` can train: each gets an equal part of ``images``. An elastic number may leave some idle.

    ``images`` are those of a batch that are computed at once.
    """
    return next(count for count in range(workers, 0, -1) if images % count == 0)


def interface(address: str) -> str:
    """The name of the network interface that has ``address``, by which Ray knows this node."""
    import psutil

    interfaces = psutil.net_if_addrs()
    if address.startswith("127."):
        return "lo0" if sys.platform == "darwin" else "lo"
    for name, addresses in interfaces.items():
        if any(each.address == address for each in addresses):
            return name
    raise ValueError(f"no network interface has {address}, by which Ray knows this node: {', '.join(interfaces)}")


def _listen(address: str) -> socket.socket:
    """A socket that listens on ``address`` alone; PyTorch's own listens on all."""
    return socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


class StoredLog(logging.Handler):
    """Writes the file anew with each line: an object cannot be appended to, and lines are few."""

    def __init__(self, storage: Storage, name: str) -> None:
        super().__init__()
        self._storage, self._name = storage, name
        self._text = storage.read(name) if storage.exists(name) else b""

    def emit(self, record: logging.LogRecord) -> None:
        self._text += self.format(record).encode() + b"\n"
        try:
            self._storage.write(self._name, self._text)
        except Exception:
            self.handleError(record)


def _log_to(storage: Storage) -> None:
    """Pass the library's messages to the stage, which shows them."""
    logger = logging.getLogger("condensenet")
    handler = StoredLog(storage, MESSAGES)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
