"""Shards made on the Ray cluster that ``RAY_ADDRESS`` names, whose nodes see images and checkout under one path."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.errors import UserError, first_line
from tasks.params import RayParams
from tasks.sources import workers
from tasks.sources.shard_work import Job, Result, make
from tasks.storage import SharedFolder, open_storage


def has_cluster(params: RayParams, images: int) -> bool:
    """Whether a cluster is named, its nodes share files, and there is enough to do."""
    shares_files = params.storage is None or isinstance(open_storage(params.storage), SharedFolder)
    return bool(os.environ.get("RAY_ADDRESS")) and shares_files and images > workers.FEW_IMAGES


def make_on_cluster(jobs: Sequence[Job], params: RayParams) -> Iterator[Result]:
    """The results in the order of ``jobs``. Raises ``UserError`` if the cluster lacks what training will need, too."""
    from tasks import ray_cluster  # slow to import

    with ray_cluster.cluster(params):
        import ray

        remote = ray.remote(num_cpus=1, memory=workers.WORKER_BYTES)(_make)
        ahead = workers.AHEAD * int(ray.cluster_resources()["CPU"])
        pending: deque[Any] = deque()
        for job in jobs:
            pending.append(ray_cluster.in_thread(lambda job=job: remote.remote(job)))  # type: ignore[misc]
            if len(pending) > ahead:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())


def _result(reference: Any) -> Result:
    import ray

    from tasks import ray_cluster

    try:
        result: Result = ray_cluster.in_thread(lambda: ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise UserError(
            f"the cluster lost a process that prepared images: {first_line(error)}. What is finished is kept: run it "
            "again"
        ) from None
    return result


def _make(job: Job) -> Result:
    import torch

    if not job.file.parent.is_dir():
        raise UserError(
            f"{job.file.parent} is not on the node {socket.gethostname()}: all nodes must see the checkout under one "
            "path. Unset RAY_ADDRESS to prepare on this machine"
        )
    torch.set_num_threads(1)
    return make(job)
