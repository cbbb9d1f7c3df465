"""The places of a network that a plan decides on, and the fixed rules of the portable plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from condensenet.deploy.lowering import blocks, pointwise, spatial
from condensenet.deploy.lowering.emit import block_name, layer_name, transition_name
from condensenet.deploy.lowering.graph import BLOCK
from condensenet.deploy.lowering.network import Block, Layer, Network, Pointwise, Spatial

Site = Layer | Block | Pointwise


def places(network: Network) -> Iterator[tuple[str, Site]]:
    """(name, what is there), in the order of the graph: dense layers, then their block, then the transition's 1x1
    convolution if it has one."""
    for number, block in enumerate(network.blocks):
        for position, layer in enumerate(block.layers):
            yield layer_name(number, position), layer
        yield block_name(number), block
        if block.shrink is not None:
            yield transition_name(number), block.shrink


def choices(site: Site) -> list[str]:
    """The variants that compute what is there exactly."""
    if isinstance(site, Pointwise):
        return pointwise.choices(site)
    if isinstance(site, Block):
        return blocks.choices(site.layers)
    firsts, seconds = pointwise.choices(site.conv_1x1), spatial.choices(site.conv_3x3)
    return [f"{first} {second}" for first in firsts for second in seconds]


def trials(site: Site) -> list[str]:
    """The variants to time: of a dense layer each 1x1 with one 3x3 and the other way round, as they hardly interact."""
    if not isinstance(site, Layer):
        return choices(site)
    usual = _rule(site).split()
    return [choice for choice in choices(site) if any(map(str.__eq__, choice.split(), usual))]


def fastest_of(site: Site, times: Mapping[str, float]) -> str:
    """The fastest variant by the times of ``trials``; of a dense layer the fastest 1x1 with the fastest 3x3."""
    if not isinstance(site, Layer):
        return min(times, key=times.__getitem__)
    first, second = _rule(site).split()
    best_first = min((time, name.split()[0]) for name, time in times.items() if name.split()[1] == second)
    best_second = min((time, name.split()[1]) for name, time in times.items() if name.split()[0] == first)
    return f"{best_first[1]} {best_second[1]}"


def portable_variants(network: Network) -> dict[str, str]:
    """Fixed rules, the same on any machine, in operators of opset 18.

    A 1x1 convolution over all features where it reads them all anyway, else over the gathered ones; batch norm
    and ReLU as a clip unless scales of both signs would need two. A 3x3 convolution
    whose groups fill the runtime's blocks and are wide enough as it is, any other as a transposed one.
    """
    return {name: _rule(site) for name, site in places(network)}


def plain_variants(network: Network) -> dict[str, str]:
    """The convolutions as they are."""
    plain = {Pointwise: "gathered", Block: "joined", Layer: "gathered plain"}
    return {name: plain[type(site)] for name, site in places(network)}


def _rule(site: Site) -> str:
    if isinstance(site, Pointwise):
        return _pointwise_rule(site)
    if isinstance(site, Block):
        return "joined"  # "blocked" pays only where the runtime has its blocked layout, which AArch64's has not
    return f"{_pointwise_rule(site.conv_1x1)} {_spatial_rule(site.conv_3x3)}"


def _pointwise_rule(conv: Pointwise) -> str:
    if conv.groups == 1 and len(conv.index) == conv.in_channels:
        return "dense"
    signs_differ = bool((conv.scale < 0).any() and (conv.scale > 0).any())
    return "normed" if signs_differ else "gathered"


def _spatial_rule(conv: Spatial) -> str:
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    fills = outputs % BLOCK == 0 and inputs % BLOCK == 0
    return "plain" if fills and outputs >= 2 * BLOCK else "transposed"


def check_variants(network: Network, variants: Mapping[str, str]) -> None:
    """Raise ``ValueError`` in one line unless ``variants`` names, for every place, one that computes it."""
    expected = dict(places(network))
    if variants.keys() != expected.keys():
        different = sorted(variants.keys() ^ expected.keys())
        raise ValueError(f"the plan does not fit the places of the network: {', '.join(different[:3])}")
    for name, site in expected.items():
        if variants[name] not in choices(site):
            raise ValueError(
                f"the plan's {variants[name]!r} cannot compute {name}; allowed: {', '.join(choices(site))}"
            )
