"""The portable plan: fixed rules that need no measurement and give the same plan on every machine."""

from __future__ import annotations

from collections.abc import Sequence

from condensenet.deploy.lowering.graph_builder import BLOCK
from condensenet.deploy.lowering.network import Block, Network, Pointwise, Spatial
from condensenet.deploy.lowering.plan import Plan, digest
from condensenet.deploy.lowering.reading import read_for_size
from condensenet.deploy.lowering.workloads import Workload, workloads
from condensenet.models.condensenet import CondenseNet


def portable_plan(model: CondenseNet, input_size: int | Sequence[int]) -> Plan:
    """The plan by fixed rules. Raises as ``lower`` does."""
    network, size = read_for_size(model, input_size)
    return Plan(kind="portable", network=digest(network), input_size=size, variants=portable_variants(network))


def portable_variants(network: Network) -> dict[str, str]:
    """The variant of every workload by fixed rules, in operators of opset 18."""
    return {name: portable_variant(workload) for name, workload in workloads(network)}


def portable_variant(workload: Workload) -> str:
    if isinstance(workload, Pointwise):
        return _pointwise_variant(workload)
    if isinstance(workload, Block):
        return "joined"  # "blocked" pays only with the runtime's blocked layout, which AArch64 lacks
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
