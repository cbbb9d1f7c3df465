"""Autotuning: each workload's variants are timed in turn in small graphs, then whole networks in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.deploy.lowering import blocks, pointwise
from condensenet.deploy.lowering.blocks import BlockOp, lower_layer
from condensenet.deploy.lowering.graph_builder import Graph
from condensenet.deploy.lowering.network import Block, Layer, Network, Pointwise, Size, block_sizes
from condensenet.deploy.lowering.network_graph import block_op, lower_network
from condensenet.deploy.lowering.plan import Plan, digest
from condensenet.deploy.lowering.pointwise import PointwiseOp
from condensenet.deploy.lowering.portable import portable_variant, portable_variants
from condensenet.deploy.lowering.reading import read_for_size
from condensenet.deploy.lowering.timing import this_machine, time_in_turn
from condensenet.deploy.lowering.timing_cache import TimingCache
from condensenet.deploy.lowering.workloads import Variants, Workload, valid_variants, workloads
from condensenet.deploy.onnx_file import INPUT
from condensenet.deploy.opset import DEFAULT_OPSET
from condensenet.machine import usable_cores
from condensenet.models.condensenet import CondenseNet

WORKLOAD_ROUNDS, NETWORK_ROUNDS = 15, 20
WHOLE_NETWORK = "whole graph"  # its key in a plan's times


def measure_plan(
    model: CondenseNet, input_size: int | Sequence[int], *, threads: int = 1, cache: Path | None = None
) -> Plan:
    """The fastest plan on this machine for one image, with ``threads`` ONNX Runtime threads (0: all usable cores).

    Each workload is timed in a small graph of its own, all candidate variants in turn. The timing cache in the file
    ``cache`` is updated after each workload, and its entries for such a machine are not measured again. Then the
    network of the fastest variants is timed alternately with the portable plan, a plain one and a mixture of the two;
    the fastest wins. Takes seconds. Raises as ``lower`` does, and ``ImportError`` without onnxruntime.
    """
    if threads < 0:
        raise ValueError(f"{threads=} is not allowed: 0 (all usable cores) or more")
    network, size = read_for_size(model, input_size)
    machine = this_machine(threads or usable_cores())
    tuner = _Autotuner(network, size, machine, TimingCache(cache))
    times_us: dict[str, dict[str, float]] = {}
    fastest: dict[str, str] = {}
    for name, workload in workloads(network):  # a block is timed with the fastest variants of its layers before it
        times_us[name] = tuner.times_us(name, workload, fastest)
        fastest[name] = fastest_variant(workload, times_us[name])
    plans = _candidate_plans(network, fastest)
    models = {name: lower_network(network, size, variants, DEFAULT_OPSET) for name, variants in plans.items()}
    times_us[WHOLE_NETWORK] = time_in_turn(models, (network.in_channels, *size), machine["threads"], NETWORK_ROUNDS)
    return Plan(
        kind="measured",
        network=digest(network),
        input_size=size,
        variants=plans[min(times_us[WHOLE_NETWORK], key=times_us[WHOLE_NETWORK].__getitem__)],
        machine=machine,
        times_us=times_us,
    )


def candidates(workload: Workload) -> list[str]:
    """The variants to time. A dense layer's two convolutions hardly interact: each is tried with the portable variant
    of the other."""
    if not isinstance(workload, Layer):
        return valid_variants(workload)
    portable = portable_variant(workload).split()
    return [variant for variant in valid_variants(workload) if any(map(str.__eq__, variant.split(), portable))]


def fastest_variant(workload: Workload, times_us: Mapping[str, float]) -> str:
    """The fastest by the times of ``candidates``; of a dense layer the fastest 1x1 with the fastest 3x3."""
    if not isinstance(workload, Layer):
        return min(times_us, key=times_us.__getitem__)
    first, second = portable_variant(workload).split()
    fastest_1x1 = min((time, name.split()[0]) for name, time in times_us.items() if name.split()[1] == second)
    fastest_3x3 = min((time, name.split()[1]) for name, time in times_us.items() if name.split()[0] == first)
    return f"{fastest_1x1[1]} {fastest_3x3[1]}"


def _candidate_plans(network: Network, fastest: Variants) -> dict[str, Variants]:
    """Variants that are fastest alone need not be so in the network, where caches are cold."""
    portable = portable_variants(network)
    plain = {Pointwise: "gathered", Block: "joined", Layer: "gathered plain"}
    fastest_blocks = {name: fastest[name] for name, workload in workloads(network) if isinstance(workload, Block)}
    return {
        "fastest variants": fastest,
        "portable with fastest blocks": {**portable, **fastest_blocks},
        "portable": portable,
        "plain": {name: plain[type(workload)] for name, workload in workloads(network)},
    }


@dataclass(frozen=True)
class _Autotuner:
    """Times the workloads of ``network`` for images of ``size``, or looks their times up."""

    network: Network
    size: Size
    machine: Mapping[str, Any]
    cache: TimingCache

    def times_us(self, name: str, workload: Workload, fastest: Variants) -> dict[str, float]:
        """Microseconds of each candidate; ``fastest`` has the variants of all workloads before this one."""
        number = int(name.replace(",", "").split()[1]) - 1  # of "block 2, layer 3", "block 2" or "transition 2"
        block = block_op(self.network, number, self.size, fastest) if isinstance(workload, Block) else None
        size = block_sizes(self.network, self.size)[number]
        shape = [_shape(workload), *block.variants, block.pools] if block else _shape(workload)
        key = {**self.machine, "site": shape, "size": size, "variants": candidates(workload)}
        times_us = self.cache.get(key)
        if not times_us:
            models = {variant: _small_graph(block or workload, variant, size) for variant in candidates(workload)}
            times_us = time_in_turn(models, (_channels(workload), *size), self.machine["threads"], WORKLOAD_ROUNDS)
            self.cache.put(key, times_us)
        return times_us


def _small_graph(workload: BlockOp | Workload, variant: str, size: Size) -> Any:
    """The workload between two operators, as in the network: one computes its input, another reads its output."""
    graph = Graph(DEFAULT_OPSET)
    x = graph.node("Relu", INPUT)
    if isinstance(workload, BlockOp):
        channels = workload.widths[0]
        x = blocks.VARIANTS[variant](graph, x, workload)
    elif isinstance(workload, Pointwise):
        channels = workload.in_channels
        x = pointwise.VARIANTS[variant](graph, x, PointwiseOp(conv=workload, pools=True))
    else:
        assert isinstance(workload, Layer)
        channels = _channels(workload)
        x = lower_layer(graph, x, workload, variant, size)
    out = graph.node("GlobalMaxPool", x)
    return graph.model({INPUT: (1, channels, *size)}, {out: (1, None, 1, 1)})


def _channels(workload: Workload) -> int:
    if isinstance(workload, Block):
        return _channels(workload.layers[0])
    return workload.in_channels if isinstance(workload, Pointwise) else workload.conv_1x1.in_channels


def _shape(workload: Workload) -> list[Any]:
    """What its times depend on: shapes, groups, and whether inputs are clipped from below and from above."""
    if isinstance(workload, Block):
        return [_shape(layer) for layer in workload.layers]
    if isinstance(workload, Layer):
        return [*_shape(workload.conv_1x1), workload.conv_3x3.groups, *workload.conv_3x3.weight.shape]
    signs = [int(np.any(workload.scale > 0)), int(np.any(workload.scale < 0))]
    return [workload.in_channels, workload.groups, *workload.weight.shape, *signs]
