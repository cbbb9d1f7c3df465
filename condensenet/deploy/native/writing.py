"""A model in grouped form as an ONNX file of custom operators of this package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from condensenet.deploy.lowering import pointwise
from condensenet.deploy.lowering.graph_builder import Graph
from condensenet.deploy.lowering.network import Block, Network, Stem
from condensenet.deploy.lowering.network_graph import lower_stem
from condensenet.deploy.lowering.pointwise import PointwiseOp
from condensenet.deploy.lowering.reading import read_for_size
from condensenet.deploy.native.encoding import POOL_GLOBAL, POOL_NONE, encode_blocks
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
    graph.name_output(_lower(graph, network), OUTPUT)
    inputs = {INPUT: ("batch", network.in_channels, *size)}
    outputs = {OUTPUT: ("batch", len(network.bias))}
    proto = graph.model(inputs, outputs, domains={DOMAIN: VERSION})
    values = {**(metadata or {}), "form": "native"}
    return write_onnx(proto, path, values, infer_shapes=False)  # ONNX knows no shapes of DenseBlock


def _lower(graph: Graph, network: Network) -> str:
    """One operator from the image to the logits, or as few as convolutions between the blocks allow."""
    fused = _fuses(network.stem)
    x = INPUT if fused else lower_stem(graph, INPUT, network.stem)
    for blocks in _runs(network.blocks):
        first, last = blocks[0] is network.blocks[0], blocks[-1] is network.blocks[-1]
        stem, tail = network.stem if first and fused else None, network if last else None
        encoded = encode_blocks(blocks, POOL_GLOBAL if last else POOL_NONE, stem=stem, tail=tail)
        lists = graph.constant(encoded.integers), graph.constant(encoded.numbers)
        x = graph.node("DenseBlock", x, *lists, domain=DOMAIN)
        if blocks[-1].shrink is not None:
            op = PointwiseOp(conv=blocks[-1].shrink, pools=blocks[-1].pools)
            x = pointwise.gathered(graph, x, op)
    return x


def _fuses(stem: Stem) -> bool:
    return not stem.pools and stem.weight.shape[2] == stem.weight.shape[3]


def _runs(blocks: Sequence[Block]) -> Iterator[Sequence[Block]]:
    """Blocks with nothing but average pooling between them."""
    start = 0
    for end, block in enumerate(blocks, 1):
        if block.shrink is not None or end == len(blocks):
            yield blocks[start:end]
            start = end
