"""How long each dense block of CondenseNet-74 takes in the native operator, by itself, with its data in the caches.

    python -m benchmarks.native_blocks                     about half a minute
    python -m benchmarks.native_blocks --against LIBRARY   beside another build of the operator library

224x224, batch 1, one thread. Every round runs each build and vector width once, so that other work on the machine meets
all alike; medians over the rounds. ``--lanes`` takes narrower vectors than the CPU has, as on an older one.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.reporting import Spread, parser, start, table, write_rows
from condensenet.deploy.lowering.network import Block, block_sizes
from condensenet.deploy.lowering.reading import read_for_size
from condensenet.deploy.native.encoding import POOL_AVERAGE, POOL_NONE, encode_blocks
from condensenet.deploy.native.writing import DOMAIN, VERSION
from condensenet.deploy.runtime import operator_library
from tasks.networks import CONDENSENETS
from tasks.tables.network_files import converted

SIZE = 224
COLUMNS = ("model", "block", "library", "lanes", "block_ms", "block_ms_p10", "block_ms_p90", "gmacs_per_s")


def main() -> None:
    options = arguments()
    rows = [row for name in CONDENSENETS for row in timed_blocks(name, options)]
    print(table(rows, COLUMNS))
    write_rows(options.json, rows)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--against", type=Path, metavar="LIBRARY", help="another build to time in the same rounds")
    options.add_argument("--lanes", type=int, nargs="+", choices=(4, 8, 16), default=[16], help="default: 16")
    options.add_argument("--rounds", type=int, default=200, help="default: %(default)s; 20 with --quick")
    parsed = options.parse_args()
    if operator_library() is None:
        raise ValueError("the native operators were not built here")
    return parsed


def timed_blocks(name: str, options: Namespace) -> Iterator[dict[str, Any]]:
    network, size = read_for_size(converted(name), SIZE)
    for number, (block, (height, width)) in enumerate(zip(network.blocks, block_sizes(network, size), strict=True), 1):
        model, shape = block_model(block, height, width)
        builds = {"this": operator_library(), "other": options.against}
        runners = {
            (build, lanes): runner(model, shape, path, lanes)
            for build, path in builds.items()
            if path is not None
            for lanes in options.lanes
        }
        macs = block_macs(block, height * width)
        for (build, lanes), times_ms in in_turns(runners, 20 if options.quick else options.rounds).items():
            spread = Spread.of(times_ms)
            case = {"model": name, "block": number, "library": build, "lanes": lanes}
            yield {**case, **spread.named("block_ms"), "macs": macs, "gmacs_per_s": macs / spread.median / 1e6}


def block_model(block: Block, height: int, width: int) -> tuple[bytes, tuple[int, ...]]:
    """An ONNX file of one operator, and the shape of its input."""
    channels = block.layers[0].conv_1x1.in_channels
    encoded = encode_blocks([block], POOL_AVERAGE if block.pools else POOL_NONE)
    lists = {"integers": encoded.integers, "numbers": encoded.numbers}
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("DenseBlock", ["x", *lists], ["y"], domain=DOMAIN)],
        "block",
        [value("x", onnx.TensorProto.FLOAT, (1, channels, height, width))],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(values, name) for name, values in lists.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model.SerializeToString(), (1, channels, height, width)


def runner(model: bytes, shape: tuple[int, ...], library: Path, lanes: int) -> Callable[[], object]:
    """The operator chooses its vectors when a session is made."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(library))
    os.environ["CONDENSENET_LANES"] = str(lanes)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    return lambda: session.run(None, feed)


def block_macs(block: Block, pixels: int) -> int:
    weights = sum(layer.conv_1x1.weight.size + layer.conv_3x3.weight.size for layer in block.layers)
    return int(weights) * pixels


def in_turns(runners: dict[Any, Callable[[], object]], rounds: int) -> Mapping[Any, Sequence[float]]:
    """Milliseconds of every run; each follows one of its own that is not timed, so it finds its data in the caches."""
    times_ms: dict[Any, list[float]] = {key: [] for key in runners}
    for _ in range(rounds):
        for key, run in runners.items():
            run()
            started = time.perf_counter()
            run()
            times_ms[key].append(1000 * (time.perf_counter() - started))
    return times_ms


if __name__ == "__main__":
    start(main)
