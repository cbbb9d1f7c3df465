"""OpenVINO as a second runtime, if it is installed. The project does not depend on it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.peak import Runner


def installed() -> bool:
    return find_spec("openvino") is not None


def runner(path: Path, threads: int, image: np.ndarray) -> Runner:
    """Runs the ONNX file once on the CPU, as one stream with ``threads`` threads."""
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    model = import_module("openvino").Core().compile_model(str(path), "CPU", settings)
    request = model.create_infer_request()
    return lambda: request.infer({"image": image})
