"""The plan by measurement: each place's variants are timed in turn in small graphs, then whole graphs in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.lowering import pointwise
from condensenet.lowering.emit import INPUT, block_sizes, emit, emit_layer
from condensenet.lowering.graph import Features, Graph
from condensenet.lowering.lower import read
from condensenet.lowering.network import Layer, Network, Pointwise
from condensenet.lowering.places import choices, places, portable_variants
from condensenet.lowering.plan import Plan, digest
from condensenet.lowering.pointwise import Place
from condensenet.lowering.timing import Times, this_machine, time_in_turn
from condensenet.machine import usable_cores
from condensenet.models.condensenet import CondenseNet

ROUNDS = 15  # of a small graph
WHOLE_ROUNDS = 20
WHOLE = "whole graph"
OPSET = 18


def measure_plan(
    model: CondenseNet, input_size: int | Sequence[int], *, threads: int = 1, cache: Path | None = None
) -> Plan:
    """The fastest plan for this machine, ONNX Runtime with ``threads`` threads (0: all usable cores), one image.

    Every place is timed in a small graph of its own, all its variants in turn; what was timed before on such a machine
    is taken from the file ``cache``, which is written after each place. Then the whole graph of the fastest variants
    runs in turn with the portable plan's and with that of plain convolutions, and the fastest of the three is the plan.
    Takes seconds. Raises as ``lower``, and ``ImportError`` without onnxruntime.
    """
    network, size = read(model, input_size)
    machine = this_machine(threads or usable_cores())
    times = Times(cache)
    by_place = {name: _timed(place, _size_of(network, name, size), machine, times) for name, place in places(network)}
    fastest = {name: min(found, key=lambda variant: found[variant]) for name, found in by_place.items()}
    candidates = {"fastest variants": fastest, "portable": portable_variants(network), "plain": _plain(network)}
    models = {name: emit(network, size, variants, OPSET) for name, variants in candidates.items()}
    whole = time_in_turn(models, (network.in_channels, *size), machine["threads"], WHOLE_ROUNDS)
    return Plan(
        kind="measured",
        network=digest(network),
        input_size=size,
        variants=candidates[min(whole, key=lambda name: whole[name])],
        machine=machine,
        times_us={**by_place, WHOLE: whole},
    )


def _plain(network: Network) -> dict[str, str]:
    return {name: "gathered" if isinstance(place, Pointwise) else "gathered plain" for name, place in places(network)}


def _size_of(network: Network, name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at the place called ``name``: "block 2, layer 3" or "transition 2"."""
    block = int(name.replace(",", "").split()[1]) - 1
    return block_sizes(network, size)[block]


def _timed(
    place: Layer | Pointwise, size: tuple[int, int], machine: Mapping[str, Any], times: Times
) -> dict[str, float]:
    """Microseconds of each variant of ``place``, from ``times`` or measured now."""
    variants = choices(place)
    key = {**machine, "place": _shape(place), "size": size, "variants": variants}
    found = times.get(key)
    if found.keys() != set(variants):
        conv = place if isinstance(place, Pointwise) else place.conv_1x1
        models = {variant: _small_graph(place, variant, size) for variant in variants}
        found = time_in_turn(models, (conv.in_channels, *size), machine["threads"], ROUNDS)
        times.put(key, found)
    return found


def _small_graph(place: Layer | Pointwise, variant: str, size: tuple[int, int]) -> Any:
    """One place in the surroundings that it has in the network: features that an operator made, and readers after."""
    graph = Graph()
    features = Features(graph)
    conv = place if isinstance(place, Pointwise) else place.conv_1x1
    features.add(graph.node("Relu", INPUT), conv.in_channels)
    if isinstance(place, Pointwise):
        made = pointwise.VARIANTS[variant](graph, features, Place(conv=place, pools=True))
    else:
        new = emit_layer(graph, features, place, variant, size)
        features.add(new, len(place.conv_3x3.weight))
        made = features.whole()
    out = graph.node("GlobalMaxPool", made)
    return graph.model({INPUT: (1, conv.in_channels, *size)}, {out: (1, None, 1, 1)}, OPSET)


def _shape(place: Layer | Pointwise) -> list[int]:
    """What of ``place`` its times depend on: shapes, groups, and whether inputs are clipped from below and above."""
    if isinstance(place, Layer):
        return [*_shape(place.conv_1x1), place.conv_3x3.groups, *place.conv_3x3.weight.shape]
    signs = [int(np.any(place.scale > 0)), int(np.any(place.scale < 0))]
    return [place.in_channels, place.groups, *place.weight.shape, *signs]
