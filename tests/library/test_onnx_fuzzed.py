"""ONNX files that anyone may have written: the latency command times them, or refuses them in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import latency_worker
import numpy as np
import pytest
from bounds import LIMIT_BYTES, LIMIT_S
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import SMALL, condensed
from test_latency import write_model

from condensenet import convert
from condensenet.deploy.native.writing import write_native
from condensenet.deploy.runtime import operator_library

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow
SIZES = st.sampled_from([-1, 0, 1, 2, 3, 7, 64, 1 << 12, 1 << 20, 1 << 31, 1 << 40, -(1 << 62), 1 << 62])
DIMENSIONS = st.lists(SIZES | st.sampled_from(["batch", "", "n\n\x1b[31m"]), max_size=6)
OPERATORS = st.sampled_from(["Relu", "Conv", "Loop", "If", "Reshape", "Expand", "Tile", "Nothing", "", "\x1b[31m\n"])


@pytest.fixture(scope="module")
def worker() -> Iterator[latency_worker.Worker]:
    with latency_worker.running() as worker:
        yield worker


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx") / "model.onnx"


@pytest.fixture(scope="module")
def plain(here: Path) -> bytes:
    return write_model(here).read_bytes()


@pytest.fixture(scope="module")
def native(here: Path) -> bytes:
    if operator_library() is None:
        pytest.skip("the native operator is not compiled here")
    return write_native(convert(condensed(SMALL)), here, 12).read_bytes()


def check(worker: latency_worker.Worker, path: Path, content: bytes) -> latency_worker.Answer:
    path.write_bytes(content)
    answer = worker.time(path)
    assert answer.seconds < LIMIT_S
    assert answer.peak_bytes < LIMIT_BYTES
    if answer.status:
        (line,) = answer.lines
        assert line.startswith("error: ")
        assert line.isprintable(), line
        assert len(line) < 2000
    return answer


def test_what_is_whole_is_timed(worker: latency_worker.Worker, here: Path, plain: bytes, native: bytes) -> None:
    assert [check(worker, here, content).status for content in (plain, native)] == [0, 0]


@settings(deadline=None)  # the worker has one
@given(st.binary(max_size=200))
@example(b"")
@example(b"\x08" * 100)
def test_any_bytes(worker: latency_worker.Worker, here: Path, content: bytes) -> None:
    check(worker, here, content)


@settings(deadline=None)  # the worker has one
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 8)), min_size=1, max_size=4))
def test_any_bytes_inside(
    worker: latency_worker.Worker, here: Path, plain: bytes, changes: list[tuple[float, bytes, int]]
) -> None:
    content = plain
    for place, insertion, removed in changes:
        at = int(place * len(content))
        content = content[:at] + insertion + content[at + removed :]
    check(worker, here, content)


@settings(deadline=None)  # the worker has one
@given(DIMENSIONS, DIMENSIONS, st.integers(0, 20), OPERATORS)
@example(["batch", 1, 1 << 20, 1 << 20], ["batch", 5], 1, "Relu")
@example(["batch", 1 << 20, 4, 4], ["batch", 5], 1, "Relu")
@example(["batch", 1, 4, 4], ["batch", 1 << 40], 1, "Relu")
@example(["batch", 1, 4, 4], ["batch", 5], 1, "\x1b[31m\n")
def test_any_shape_type_and_operator(
    worker: latency_worker.Worker, here: Path, image: list[Any], logits: list[Any], kind: int, operator: str
) -> None:
    values = [
        onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in (("image", image), ("logits", logits))
    ]
    node = onnx.helper.make_node(operator, ["image"], ["logits"])
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 18)]
    check(worker, here, onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@settings(deadline=None)  # the worker has one
@given(st.lists(st.tuples(st.floats(0, 1), SIZES), min_size=1, max_size=3), st.floats(0, 1) | st.just(1.0))
@example([(0.0, 0)], 1.0)
@example([(0.1, 1 << 62)], 1.0)
def test_any_list_of_the_native_operator(
    worker: latency_worker.Worker, here: Path, native: bytes, changes: list[tuple[float, int]], kept: float
) -> None:
    proto = onnx.load_from_string(native)
    (entry,) = [each for each in proto.graph.initializer if each.data_type == onnx.TensorProto.INT64]
    values = onnx.numpy_helper.to_array(entry).copy()
    for place, value in changes:
        values[min(int(place * len(values)), len(values) - 1)] = value
    values = values[: int(kept * len(values))]
    entry.CopyFrom(onnx.numpy_helper.from_array(values, entry.name))
    answer = check(worker, here, proto.SerializeToString())
    assert answer.status == 0 or "DenseBlock" in answer.lines[0]


@settings(deadline=None)  # the worker has one
@given(st.lists(st.sampled_from([np.inf, -np.inf, np.nan, 3e38, 1e-45, -0.0]), min_size=1, max_size=9), st.floats(0, 2))
def test_any_numbers_of_the_native_operator(
    worker: latency_worker.Worker, here: Path, native: bytes, values: list[float], size: float
) -> None:
    proto = onnx.load_from_string(native)
    (entry,) = [each for each in proto.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    numbers = onnx.numpy_helper.to_array(entry)
    changed = np.resize(numbers, int(size * len(numbers)))
    chosen = slice(0, len(values))
    changed[chosen] = values[: len(changed)]
    entry.CopyFrom(onnx.numpy_helper.from_array(changed, entry.name))
    answer = check(worker, here, proto.SerializeToString())
    assert (answer.status == 0) == (len(changed) == len(numbers))
