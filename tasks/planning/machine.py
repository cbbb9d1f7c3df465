"""What this machine has for a study: cores that load, GPUs, memory and disk. Of a cluster nothing is known."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from condensenet.machine import usable_cores
from tasks.params import Params, RayParams
from tasks.sources.workers import usable_memory


def loading_cores(ray: RayParams) -> float:
    """Cores that a worker's threads have for loading: below one a thread where this machine has fewer."""
    cores = math.inf if os.environ.get("RAY_ADDRESS") else usable_cores()
    return min(ray.threads_that_load, cores / ray.max_workers)


def too_few_cores(ray: RayParams) -> str | None:
    """A line if the threads of all workers are more than this machine's cores. A cluster's cores are not known."""
    threads, cores = ray.max_workers * ray.threads_that_load, usable_cores()
    if os.environ.get("RAY_ADDRESS") or threads <= cores:
        return None
    return f"{threads} loading threads on {cores} core{'s' * (cores > 1)} of this machine: they load as {cores} would."


def free_disk() -> float:
    return shutil.disk_usage(Path.cwd()).free


def gpus_here(params: Params) -> list[Any]:
    """Bytes of memory of each GPU of this machine; none if the study does not train here on GPUs."""
    if not params.ray.use_gpu or os.environ.get("RAY_ADDRESS"):
        return []
    return [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]


def memory_here(params: Params) -> float:
    """Bytes of this machine's memory that are free for workers; infinite if they do not train in it."""
    return math.inf if params.ray.use_gpu or os.environ.get("RAY_ADDRESS") else usable_memory()


def unchecked_gpus(params: Params) -> str | None:
    """A line if the study asks for GPUs, of which there are none here and no cluster is named."""
    if not params.ray.use_gpu or os.environ.get("RAY_ADDRESS") or torch.cuda.is_available():
        return None
    return "ray.use_gpu=true, and this machine has no GPU: whether GPUs and their memory suffice is not checked."
