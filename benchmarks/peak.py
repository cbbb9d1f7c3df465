"""The machine's peak: multiply-adds per second of a large single-precision matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condensenet.deploy.runtime import open_session

SIZE = 1536
MACS = SIZE**3
TRIES = 5
Runner = Callable[[], Any]


def products(threads: int, folder: Path) -> dict[str, Runner]:
    """The same product of two square matrices by every installed library that can be limited to ``threads`` threads."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2))
    session = open_session(write_product(b, folder / "product.onnx"), threads)
    runners: dict[str, Runner] = {"ONNX Runtime": lambda: session.run(None, {"a": a}), "PyTorch": _by_torch(a, b)}
    if (by_numpy := _by_numpy(a, b, threads)) is not None:
        runners["NumPy"] = by_numpy
    torch.set_num_threads(threads)
    return runners


def fastest(runners: Mapping[str, Runner]) -> tuple[str, Runner]:
    """The name and runner with the shortest of a few runs, which alternate after a warm-up."""
    best = dict.fromkeys(runners, float("inf"))
    for run in range(-1, TRIES):
        for name, runner in runners.items():
            started = time.perf_counter()
            runner()
            if run >= 0:
                best[name] = min(best[name], time.perf_counter() - started)
    name = min(best, key=best.__getitem__)
    return name, runners[name]


def write_product(b: np.ndarray, path: Path) -> Path:
    """An ONNX file that multiplies the input ``a`` (n, n) by the constant ``b`` (n, n)."""
    import onnx

    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, b.shape) for name in ("a", "product")]
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["product"])
    graph = onnx.helper.make_graph([node], "product", ends[:1], ends[1:], [onnx.numpy_helper.from_array(b, "b")])
    opsets = [onnx.helper.make_opsetid("", 18)]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def _by_torch(a: np.ndarray, b: np.ndarray) -> Runner:
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def _by_numpy(a: np.ndarray, b: np.ndarray, threads: int) -> Runner | None:
    """None without threadpoolctl: NumPy itself cannot limit the threads of its BLAS."""
    try:
        limits = import_module("threadpoolctl").threadpool_limits
    except ImportError:
        return None
    limits(threads, user_api="blas")
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)
