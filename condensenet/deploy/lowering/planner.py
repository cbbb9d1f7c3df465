"""The plan by measurement: each place's variants are timed in turn in small graphs, then whole graphs in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.deploy.lowering import pointwise
from condensenet.deploy.lowering.blocks import STYLES, BlockPlace, emit_layer
from condensenet.deploy.lowering.emit import block_place, block_sizes, emit
from condensenet.deploy.lowering.graph import Graph
from condensenet.deploy.lowering.network import Block, Layer, Network, Pointwise
from condensenet.deploy.lowering.places import Site, fastest_of, places, plain_variants, portable_variants, trials
from condensenet.deploy.lowering.plan import Plan, Size, digest
from condensenet.deploy.lowering.pointwise import Place
from condensenet.deploy.lowering.timing import Times, this_machine, time_in_turn
from condensenet.deploy.lowering.writing import read
from condensenet.deploy.onnx_file import INPUT
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
    runs in turn with the portable plan's, with that of plain convolutions and a mixture, and the fastest is the plan.
    Takes seconds. Raises as ``lower``, and ``ImportError`` without onnxruntime.
    """
    if threads < 0:
        raise ValueError(f"{threads=} is not allowed: 0 (all usable cores) or more")
    network, size = read(model, input_size)
    machine = this_machine(threads or usable_cores())
    bench = _Bench(network, size, machine, Times(cache))
    by_place: dict[str, dict[str, float]] = {}
    fastest: dict[str, str] = {}
    for name, site in places(network):  # a block comes after its layers, whose fastest variants it is timed with
        by_place[name] = bench.times(name, site, fastest)
        fastest[name] = fastest_of(site, by_place[name])
    candidates = _candidates(network, fastest)
    models = {name: emit(network, size, variants, OPSET) for name, variants in candidates.items()}
    whole = time_in_turn(models, (network.in_channels, *size), machine["threads"], WHOLE_ROUNDS)
    return Plan(
        kind="measured",
        network=digest(network),
        input_size=size,
        variants=candidates[min(whole, key=whole.__getitem__)],
        machine=machine,
        times_us={**by_place, WHOLE: whole},
    )


def _candidates(network: Network, fastest: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    """Whole plans by name. Variants that are as fast alone need not be so in the network, where caches are cold."""
    portable = portable_variants(network)
    styles = {name: fastest[name] for name, site in places(network) if isinstance(site, Block)}
    return {
        "fastest variants": fastest,
        "portable with fastest blocks": {**portable, **styles},
        "portable": portable,
        "plain": plain_variants(network),
    }


@dataclass(frozen=True)
class _Bench:
    """Times places of ``network`` for images of ``size``, or looks them up."""

    network: Network
    size: Size
    machine: Mapping[str, Any]
    known: Times

    def times(self, name: str, site: Site, fastest: Mapping[str, str]) -> dict[str, float]:
        """Microseconds of each variant of ``site``; ``fastest`` has those of what stands before it."""
        number = int(name.replace(",", "").split()[1]) - 1  # of "block 2, layer 3", "block 2" or "transition 2"
        block = block_place(self.network, number, self.size, fastest) if isinstance(site, Block) else None
        size = block_sizes(self.network, self.size)[number]
        shape = [_shape(site), *block.variants, block.pools] if block else _shape(site)
        key = {**self.machine, "site": shape, "size": size, "variants": trials(site)}
        found = self.known.get(key)
        if not found:
            models = {variant: _small_graph(block or site, variant, size) for variant in trials(site)}
            found = time_in_turn(models, (_channels(site), *size), self.machine["threads"], ROUNDS)
            self.known.put(key, found)
        return found


def _small_graph(site: BlockPlace | Site, variant: str, size: Size) -> Any:
    """One place in the surroundings that it has in the network: an operator makes its input, another reads after it."""
    graph = Graph(OPSET)
    x = graph.node("Relu", INPUT)
    if isinstance(site, BlockPlace):
        channels = site.widths[0]
        x = STYLES[variant](graph, x, site)
    elif isinstance(site, Pointwise):
        channels = site.in_channels
        x = pointwise.VARIANTS[variant](graph, x, Place(conv=site, pools=True))
    else:
        assert isinstance(site, Layer)
        channels = _channels(site)
        x = emit_layer(graph, x, site, variant, size)
    out = graph.node("GlobalMaxPool", x)
    return graph.model({INPUT: (1, channels, *size)}, {out: (1, None, 1, 1)})


def _channels(site: Site) -> int:
    if isinstance(site, Block):
        return _channels(site.layers[0])
    return site.in_channels if isinstance(site, Pointwise) else site.conv_1x1.in_channels


def _shape(site: Site) -> list[Any]:
    """What of ``site`` its times depend on: shapes, groups, and whether inputs are clipped from below and above."""
    if isinstance(site, Block):
        return [_shape(layer) for layer in site.layers]
    if isinstance(site, Layer):
        return [*_shape(site.conv_1x1), site.conv_3x3.groups, *site.conv_3x3.weight.shape]
    signs = [int(np.any(site.scale > 0)), int(np.any(site.scale < 0))]
    return [site.in_channels, site.groups, *site.weight.shape, *signs]
