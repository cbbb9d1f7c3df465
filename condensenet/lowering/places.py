"""The places of a network that a plan decides on, and the fixed rules of the portable plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from condensenet.lowering import pointwise, spatial
from condensenet.lowering.emit import layer_name, transition_name
from condensenet.lowering.network import Layer, Network, Pointwise, Spatial


def places(network: Network) -> Iterator[tuple[str, Layer | Pointwise]]:
    """(name, dense layer), and (name, 1x1 convolution) of the transitions that have one, in the order of the graph."""
    for number, block in enumerate(network.blocks):
        for position, layer in enumerate(block.layers):
            yield layer_name(number, position), layer
        if block.shrink is not None:
            yield transition_name(number), block.shrink


def choices(place: Layer | Pointwise) -> list[str]:
    """The variants that compute ``place`` exactly."""
    if isinstance(place, Pointwise):
        return pointwise.choices(place)
    firsts, seconds = pointwise.choices(place.conv_1x1), spatial.choices(place.conv_3x3)
    return [f"{first} {second}" for first in firsts for second in seconds]


def portable_variants(network: Network) -> dict[str, str]:
    """Fixed rules by shape alone, for any machine.

    A 1x1 convolution over all features where it reads them all anyway, else over the gathered ones. A 3x3 convolution
    whose groups fill the runtime's blocks and are wide enough as it is, any other as a transposed one.
    """
    return {
        name: _pointwise_rule(place)
        if isinstance(place, Pointwise)
        else f"{_pointwise_rule(place.conv_1x1)} {_spatial_rule(place.conv_3x3)}"
        for name, place in places(network)
    }


def _pointwise_rule(conv: Pointwise) -> str:
    return "dense" if conv.groups == 1 and len(conv.index) == conv.in_channels else "gathered"


def _spatial_rule(conv: Spatial) -> str:
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    fills = outputs % spatial.BLOCK == 0 and inputs % spatial.BLOCK == 0
    return "plain" if fills and outputs >= 2 * spatial.BLOCK else "transposed"


def check_variants(network: Network, variants: Mapping[str, str]) -> None:
    """Raise ``ValueError`` in one line unless ``variants`` names, for every place, one that computes it."""
    expected = dict(places(network))
    if variants.keys() != expected.keys():
        different = sorted(variants.keys() ^ expected.keys())
        raise ValueError(f"the plan does not fit the places of the network: {', '.join(different[:3])}")
    for name, place in expected.items():
        if variants[name] not in choices(place):
            raise ValueError(
                f"the plan's {variants[name]!r} cannot compute {name}; allowed: {', '.join(choices(place))}"
            )
