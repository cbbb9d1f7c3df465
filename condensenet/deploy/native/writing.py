"""A model in grouped form as an ONNX file whose dense blocks are custom operators of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from condensenet.deploy.lowering import pointwise
from condensenet.deploy.lowering.graph_builder import Graph
from condensenet.deploy.lowering.network import Network
from condensenet.deploy.lowering.network_graph import lower_stem
from condensenet.deploy.lowering.pointwise import PointwiseOp
from condensenet.deploy.lowering.reading import read_for_size
from condensenet.deploy.native.encoding import POOL_AVERAGE, POOL_GLOBAL, POOL_NONE, encode_block
from condensenet.deploy.onnx_file import INPUT, OUTPUT, write_onnx
from condensenet.deploy.opset import DEFAULT_OPSET, check_opset
from condensenet.models.condensenet import CondenseNet

DOMAIN, VERSION = "condensenet", 1


def write_native(
    model: CondenseNet,
    path: str | Path,
    input_size: int | Sequence[int],
    *,
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write ``model`` as one ONNX file with the operator ``condensenet.DenseBlock`` and return its path.

    Input, output, batch and metadata are as in ``lower``; ``form`` is "native". A session can load the file once
    ``operator_library()`` is registered with it. Raises ``ValueError`` for a model that is not in grouped form, an
    opset or a size that is not allowed; ``ImportError`` without onnx.
    """
    check_opset(opset)
    network, size = read_for_size(model, input_size)
    graph = Graph(opset)
    _lower_classifier(graph, _lower_features(graph, network), network)
    inputs = {INPUT: ("batch", network.in_channels, *size)}
    outputs = {OUTPUT: ("batch", len(network.bias))}
    proto = graph.model(inputs, outputs, domains={DOMAIN: VERSION})
    values = {**(metadata or {}), "form": "native"}
    return write_onnx(proto, path, values, infer_shapes=False)  # ONNX knows no shapes of DenseBlock


def _lower_features(graph: Graph, network: Network) -> str:
    """Stem and blocks; returns the means of the last features, (N, F)."""
    x = lower_stem(graph, INPUT, network.stem)
    for block in network.blocks:
        channels = block.layers[0].conv_1x1.in_channels
        last = block is network.blocks[-1]
        pool = POOL_GLOBAL if last else POOL_AVERAGE if block.pools and block.shrink is None else POOL_NONE
        tail = (network.scale, network.shift) if last else ()
        encoded = encode_block(block, channels, pool, *tail)
        lists = graph.constant(encoded.integers), graph.constant(encoded.numbers)
        x = graph.node("DenseBlock", x, *lists, domain=DOMAIN)
        if block.shrink is not None:
            x = pointwise.gathered(graph, x, PointwiseOp(conv=block.shrink, pools=block.pools))
    return x


def _lower_classifier(graph: Graph, x: str, network: Network) -> None:
    x = pointwise.gather_channels(graph, x, network.index, len(network.scale))
    weight, bias = graph.constant(network.weight), graph.constant(network.bias)
    graph.name_output(graph.node("Gemm", x, weight, bias, transB=1), OUTPUT)
