"""The portable plan: fixed rules that need no measurement and give the same plan on every machine.

The rules depend on the runtime that is to read the file. docs/LOG.md says what they rest on; ``benchmarks/runtimes.py``
compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from condensenet.deploy.lowering import spatial
from condensenet.deploy.lowering.graph_builder import BLOCK
from condensenet.deploy.lowering.network import Block, Layer, Network, Pointwise, Spatial
from condensenet.deploy.lowering.plan import Plan, digest
from condensenet.deploy.lowering.pointwise import has_shared_norm
from condensenet.deploy.lowering.reading import read_for_size
from condensenet.deploy.lowering.workloads import Workload, workloads
from condensenet.models.condensenet import CondenseNet

DENSE_OUTPUTS = 4 * BLOCK  # outside ONNX Runtime a 1x1 convolution of at most so many outputs is faster dense


def portable_plan(model: CondenseNet, input_size: int | Sequence[int], *, runtime: str = "onnxruntime") -> Plan:
    """The plan by fixed rules for ``runtime``: onnxruntime, openvino, litert, mnn or ncnn.

    Every plan's file runs in ONNX Runtime too. Raises as ``lower`` does, and ``ValueError`` for another runtime.
    """
    if runtime not in RULES:
        raise ValueError(f"{runtime=} is not allowed: {', '.join(RULES)}")
    network, size = read_for_size(model, input_size)
    return Plan(kind="portable", network=digest(network), input_size=size, variants=portable_variants(network, runtime))


def portable_variants(network: Network, runtime: str = "onnxruntime") -> dict[str, str]:
    """The variant of every workload by fixed rules, in operators of opset 18."""
    return {name: portable_variant(workload, runtime) for name, workload in workloads(network)}


def portable_variant(workload: Workload, runtime: str = "onnxruntime") -> str:
    if isinstance(workload, Block):
        return "joined"  # "blocked" pays only with ONNX Runtime's blocked layout, which AArch64 lacks
    return RULES[runtime](workload)


def _for_onnxruntime(workload: Layer | Pointwise) -> str:
    if isinstance(workload, Pointwise):
        return _pointwise_variant(workload)
    return f"{_pointwise_variant(workload.conv_1x1)} {_spatial_variant(workload.conv_3x3)}"


def _pointwise_variant(conv: Pointwise) -> str:
    """Over all features if all are read anyway, else gathered. Batch norm and ReLU become a clip, unless scales of
    both signs would need two."""
    if conv.groups == 1 and len(conv.index) == conv.in_channels:
        return "dense"
    signs_differ = bool((conv.scale < 0).any() and (conv.scale > 0).any())
    return "normed" if signs_differ else "gathered"


def _spatial_variant(conv: Spatial) -> str:
    """A plain convolution if its groups are wide and fill the runtime's channel blocks, else a transposed one."""
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    fills = outputs % BLOCK == 0 and inputs % BLOCK == 0
    return "plain" if fills and outputs >= 2 * BLOCK else "transposed"


def _for_others(workload: Layer | Pointwise) -> str:
    """Dense where there are few outputs: these runtimes handle groups of a few channels badly, and a gather or a
    shuffle of a large image costs more than the multiplications by zero."""
    conv = workload if isinstance(workload, Pointwise) else workload.conv_1x1
    return _dense_or_normed(workload, conv.out_channels <= DENSE_OUTPUTS)


def _without_gather(workload: Layer | Pointwise) -> str:
    """Dense everywhere: ncnn's converter takes no ``Gather``."""
    return _dense_or_normed(workload, True)


def _dense_or_normed(workload: Layer | Pointwise, prefers_dense: bool) -> str:
    """Groups that normalise a feature differently, as fine-tuning may make them, cannot be dense."""
    conv = workload if isinstance(workload, Pointwise) else workload.conv_1x1
    variant = "dense_normed" if prefers_dense and has_shared_norm(conv) else "normed"
    if isinstance(workload, Pointwise):
        return variant
    valid = spatial.valid_variants(workload.conv_3x3)
    narrow = len(workload.conv_3x3.weight) <= BLOCK
    return f"{variant} {next((name for name in ('dense', 'merged') if narrow and name in valid), 'plain')}"


RULES: dict[str, Callable[[Layer | Pointwise], str]] = {
    "onnxruntime": _for_onnxruntime,
    "openvino": _for_others,
    "litert": _for_others,
    "mnn": _for_others,
    "ncnn": _without_gather,
}
