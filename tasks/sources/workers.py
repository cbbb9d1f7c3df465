"""Processes that make shards. They end when the process that started them ends, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path, PurePosixPath

import psutil

from condensenet.machine import usable_cores
from tasks import environment
from tasks.errors import UserError
from tasks.sources.shard_work import Job, Result, make

WORKERS = "CONDENSENET_PREPARE_WORKERS"
FEW_IMAGES = 2048  # for which starting processes would take longer than the work
AHEAD = 2  # jobs for each worker
# Measured: this process and the one that forks take 0.4 GB each, a worker under 0.15, and the one large image 0.55.
BASE_BYTES, WORKER_BYTES = 1_400_000_000, 150_000_000
INDEXED_BYTES = 200  # for each image: name, place and label, in the source and in its job; 141 were counted
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # man 7 cgroups


def number_of_workers(jobs: int, images: int, indexed: int) -> int:
    """As many as there are cores and memory for, or as the environment says; 1 for few images.

    ``images`` are left to prepare, of ``indexed`` in the source.
    """
    given = environment.count(WORKERS)
    if given is not None:
        return min(given, max(1, jobs))
    fitting = (usable_memory() - BASE_BYTES - indexed * INDEXED_BYTES) // WORKER_BYTES
    return 1 if images <= FEW_IMAGES else max(1, min(usable_cores(), jobs, fitting))


def usable_memory() -> int:
    """The bytes of memory that are free, or that a container or a job of a scheduler may use if that is less."""
    limits = [psutil.virtual_memory().available]
    for path in _limit_files():
        with suppress(OSError, ValueError):  # not mounted here, or "max"
            limits.append(int(path.read_text()))
    return int(min(limits))


def _limit_files() -> Iterator[Path]:
    """Where the memory limits of this process's control groups stand, in version 2 or 1, from its own to the root.

    In a container the root alone may be mounted, while the names are those of the machine.
    """
    with suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):
                name = "memory.limit_in_bytes" if controllers else "memory.max"
                own = PurePosixPath(group)
                yield from (CGROUPS / controllers / each.relative_to("/") / name for each in (own, *own.parents))


def make_all(jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """The results in the order of ``jobs``; with one worker this process does the work."""
    if workers == 1:
        for job in jobs:
            with _one_thread():
                result = make(job)
            yield result
        return
    context = multiprocessing.get_context("forkserver")  # imports once; forks from a process without threads
    context.set_forkserver_preload([make.__module__, "torchvision.io"])  # which is imported to decode the first image
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, initializer=_start)
    pending: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(make, job))
            if len(pending) > AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a process that prepared images was killed, for want of memory or by a damaged image. What is finished is "
            f"kept: run it again, with {WORKERS} below {workers} if memory is short"
        ) from None
    finally:
        if pending:  # an error, or nobody waits for the rest
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """An image's operations are so short that several threads wait for each other: 10 ms an image in place of 2."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
