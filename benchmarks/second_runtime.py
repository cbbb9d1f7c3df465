"""OpenVINO as a second runtime, where it is installed; it is no dependency of the project."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.peak import Runner


def installed() -> bool:
    return find_spec("openvino") is not None


def runner(path: Path, threads: int, image: np.ndarray) -> Runner:
    """One inference of the ONNX file on the CPU, by one stream of ``threads`` threads."""
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    model = import_module("openvino").Core().compile_model(str(path), "CPU", settings)
    request = model.create_infer_request()
    return lambda: request.infer({"image": image})
