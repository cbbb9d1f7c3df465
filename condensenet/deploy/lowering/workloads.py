"""The workloads of a network: what a plan chooses a variant for, and the variants that compute each one exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from condensenet.deploy.lowering import blocks, pointwise, spatial
from condensenet.deploy.lowering.network import Block, Layer, Network, Pointwise
from condensenet.text import escaped, shown

Workload = Layer | Block | Pointwise
Variants = Mapping[str, str]  # by name of the workload


def layer_name(block: int, layer: int) -> str:
    return f"block {block + 1}, layer {layer + 1}"


def transition_name(block: int) -> str:
    return f"transition {block + 1}"


def block_name(block: int) -> str:
    return f"block {block + 1}"


def workloads(network: Network) -> Iterator[tuple[str, Workload]]:
    """(name, workload) in graph order: the layers of a block, the block, its transition's 1x1 convolution if any."""
    for block_number, block in enumerate(network.blocks):
        for layer_number, layer in enumerate(block.layers):
            yield layer_name(block_number, layer_number), layer
        yield block_name(block_number), block
        if block.shrink is not None:
            yield transition_name(block_number), block.shrink


def valid_variants(workload: Workload) -> list[str]:
    """The variants that compute ``workload`` exactly; a dense layer's are "<of the 1x1> <of the 3x3>"."""
    if isinstance(workload, Pointwise):
        return pointwise.valid_variants(workload)
    if isinstance(workload, Block):
        return blocks.valid_variants(workload.layers)
    spatial_variants = spatial.valid_variants(workload.conv_3x3)
    return [f"{first} {second}" for first in pointwise.valid_variants(workload.conv_1x1) for second in spatial_variants]


def check_variants(network: Network, variants: Variants) -> None:
    """Raise a one-line ``ValueError`` unless ``variants`` names a valid variant for each workload."""
    expected = dict(workloads(network))
    if variants.keys() != expected.keys():
        different = [escaped(name[:100]) for name in sorted(variants.keys() ^ expected.keys())]
        raise ValueError(f"the plan's workloads are not those of the network: {'; '.join(different[:3])}")
    for name, workload in expected.items():
        allowed = valid_variants(workload)
        if variants[name] not in allowed:
            raise ValueError(f"the plan's {shown(variants[name])} cannot compute {name}; allowed: {', '.join(allowed)}")
