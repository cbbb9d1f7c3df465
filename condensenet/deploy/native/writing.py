"""A model in grouped form as an ONNX file whose dense blocks are operators of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from condensenet.deploy.lowering import pointwise
from condensenet.deploy.lowering.emit import emit_stem
from condensenet.deploy.lowering.graph import Graph
from condensenet.deploy.lowering.network import Network
from condensenet.deploy.lowering.pointwise import Place
from condensenet.deploy.lowering.writing import read
from condensenet.deploy.native.encoding import POOL_AVERAGE, POOL_GLOBAL, POOL_NONE, encode_block
from condensenet.deploy.onnx_file import INPUT, OUTPUT, check_opset, needs, properties
from condensenet.files import write_atomically
from condensenet.models.condensenet import CondenseNet

DOMAIN, VERSION = "condensenet", 1


def write_native(
    model: CondenseNet,
    path: str | Path,
    input_size: int | Sequence[int],
    *,
    opset: int = 18,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write ``model`` as one ONNX file with the operator ``condensenet.DenseBlock`` and return its path.

    All else is as with ``lower``: input, output, free batch, metadata; ``form`` is "native". A session runs the file
    once it has registered ``operator_library()``. Raises ``ValueError`` for a model that is not in grouped form, an
    opset or a size that cannot be; ``ImportError`` without onnx.
    """
    check_opset(opset)
    network, size = read(model, input_size)
    onnx = needs("onnx")
    graph = Graph(opset)
    _classify(graph, _blocks(graph, network), network)
    inputs = {INPUT: ("batch", network.in_channels, *size)}
    outputs = {OUTPUT: ("batch", len(network.bias))}
    proto = graph.model(inputs, outputs, domains={DOMAIN: VERSION})
    onnx.helper.set_model_props(proto, properties({**(metadata or {}), "form": "native"}))
    onnx.checker.check_model(proto)
    write_atomically(Path(path), proto.SerializeToString(deterministic=True))
    return Path(path)


def _blocks(graph: Graph, network: Network) -> str:
    """The means of the last features, (N, F)."""
    x = emit_stem(graph, INPUT, network.stem)
    for block in network.blocks:
        channels = block.layers[0].conv_1x1.in_channels
        last = block is network.blocks[-1]
        pool = POOL_GLOBAL if last else POOL_AVERAGE if block.pools and block.shrink is None else POOL_NONE
        tail = (network.scale, network.shift) if last else ()
        encoded = encode_block(block, channels, pool, *tail)
        lists = graph.constant(encoded.integers), graph.constant(encoded.numbers)
        x = graph.node("DenseBlock", x, *lists, domain=DOMAIN)
        if block.shrink is not None:
            x = pointwise.gathered(graph, x, Place(conv=block.shrink, pools=block.pools))
    return x


def _classify(graph: Graph, x: str, network: Network) -> None:
    if len(network.index) < len(network.scale):
        x = graph.node("Gather", x, graph.constant(network.index), axis=1)
    weight, bias = graph.constant(network.weight), graph.constant(network.bias)
    graph.name_output(graph.node("Gemm", x, weight, bias, transB=1), OUTPUT)
