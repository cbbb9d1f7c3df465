"""What runs in each Ray worker. No Ray Data, MLflow, Prefect or torchvision: a worker should start fast.

Workers and the stage share a folder, the training's own: checkpoints, ``history.csv`` after every epoch, messages
for the user, and finally ``model.pt``, ``paused.txt`` or ``error.txt``. Only rank 0 writes there, except for ``stop``,
which the stage writes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig
from condensenet.file_locks import try_lock
from condensenet.files import is_permanent_write_error
from tasks import paths
from tasks.outputs import write_csv, write_json, write_text

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

    folder: Path  # absolute
    data: Path  # absolute
    model: ModelConfig
    train: TrainConfig
    augment: AugmentConfig
    threads: int
    use_gpu: bool


def run(config: dict[str, Any]) -> None:
    """Train as one of Ray Train's workers. Errors that a restart cannot fix go to ``error.txt``."""
    job: Job = config["job"]
    if (job.folder / ERROR).exists():  # a restart by Ray would fail in the same way
        return
    import torch.distributed as dist

    rank = _start_process_group(job)
    try:
        with _exclusive(job.folder) if rank == 0 else nullcontext():
            _train(job, rank)
    except Exception as error:
        if _is_pause(error):
            if rank == 0:
                write_text(job.folder / PAUSED, str(error))
            return
        if _is_final(error):
            with suppress(OSError):  # still no space: Ray reports the error
                (job.folder / RESERVE).unlink(missing_ok=True)
                write_text(job.folder / ERROR, f"{_message(error)}\n{traceback.format_exc()}")
        raise
    dist.destroy_process_group()


def _train(job: Job, rank: int) -> None:
    import torch

    from condensenet.data import PreparedData
    from condensenet.models.condensenet import CondenseNet
    from condensenet.models.storage import save_model
    from condensenet.training import checkpoint, fit

    torch.set_num_threads(job.threads)
    torch.backends.cudnn.benchmark = job.use_gpu  # every step has the same shapes: cuDNN tries its kernels once
    device = torch.device("cuda" if job.use_gpu else "cpu")
    if rank == 0:
        _log_to(job.folder / MESSAGES)
        write_json(job.folder / ENVIRONMENT, checkpoint.environment(device))
    torch.manual_seed(job.train.seed)
    model = CondenseNet(job.model)
    history: list[EpochResult] = []
    checkpoints, stop = job.folder / CHECKPOINTS, str(job.folder / STOP)
    for epoch in fit(
        model,
        PreparedData(job.data),
        job.augment,
        job.train,
        checkpoints=checkpoints,
        device=device,
        stop=(lambda: os.path.exists(stop)) if rank == 0 else None,
    ):
        history.append(epoch)
        if rank == 0:
            write_csv(job.folder / paths.HISTORY, as_rows(history))
    if rank == 0:
        save_model(model, job.folder / paths.MODEL)


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


def _start_process_group(job: Job) -> int:
    """Join the other workers: gloo on CPUs, NCCL on GPUs.

    On one machine they meet through a file, and all traffic stays on the loopback. On several, rank 0 listens on the
    address by which Ray knows its node.
    """
    import ray.train
    import torch.distributed as dist
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    rank, size, address = context.get_world_rank(), context.get_world_size(), ray.util.get_node_ip_address()
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # else both trust what the host's name resolves to
        os.environ.setdefault(variable, interface(address))
    if address.startswith("127."):
        path = f"{job.folder}/meeting-{uuid.uuid4().hex}" if rank == 0 else None
        store: dist.Store = dist.FileStore(broadcast_from_rank_zero(path), size)
    else:
        listener = _listen(address) if rank == 0 else None
        host, port = broadcast_from_rank_zero(listener.getsockname()[:2] if listener else None)
        descriptor = listener.detach() if listener else None
        store = dist.TCPStore(host, port, size, is_master=rank == 0, master_listen_fd=descriptor)
    dist.init_process_group("nccl" if job.use_gpu else "gloo", store=store, rank=rank, world_size=size)
    return rank


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


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Wait until no other rank 0 writes in ``folder``: one whose stage was killed may survive for a moment."""
    deadline = time.monotonic() + LOCK_WAIT_S
    with (folder / LOCK).open("a") as file:
        while not try_lock(file):
            if time.monotonic() > deadline:
                raise ValueError(f"{folder} is in use by another training")
            time.sleep(0.2)
        yield


def _log_to(path: Path) -> None:
    """Pass the library's messages to the stage, which shows them."""
    logger = logging.getLogger("condensenet")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
