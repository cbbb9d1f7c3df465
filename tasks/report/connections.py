"""Which earlier layers each layer still reads after condensing: the paper's figure, as numbers.

A dense layer appends its output to all features so far, and pooling changes no channel. So the input channels of a
layer fall into consecutive ranges, one for each source: the stem, each earlier layer or, where a transition has its
own convolution (DenseNet-BC), that transition.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from condensenet.config import ModelConfig
from tasks.report.results import KeptLayer


@dataclass(frozen=True)
class Source:
    """The input channels ``start`` to ``start + size`` come from the layer ``name``."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, kw_only=True)
class LayerConnections:
    """A layer, the sources it could read, and the inputs it kept."""

    name: str
    sources: tuple[Source, ...]
    layer: KeptLayer

    @property
    def density(self) -> float:
        """The share (0 to 1) of the layer's connections that was kept."""
        return sum(map(len, self.layer.kept)) / (len(self.layer.kept) * self.layer.in_channels)

    def source_densities(self) -> list[float]:
        """For each source, the share (0 to 1) of its connections to the layer's groups that was kept."""
        readers = Counter(channel for group in self.layer.kept for channel in group)
        groups = len(self.layer.kept)
        return [sum(readers[c] for c in range(s.start, s.start + s.size)) / (groups * s.size) for s in self.sources]

    def source_weights(self) -> list[float] | None:
        """For each source, the mean absolute weight (0 where pruned), relative to the layer's largest."""
        if self.layer.mean_abs_weight is None:
            return None
        total = [0.0] * self.layer.in_channels
        for channels, values in zip(self.layer.kept, self.layer.mean_abs_weight, strict=True):
            for channel, value in zip(channels, values, strict=True):
                total[channel] += value
        means = [sum(total[s.start : s.start + s.size]) / s.size for s in self.sources]
        largest = max(means)
        return [mean / largest if largest > 0 else 0.0 for mean in means]


def layer_connections(config: ModelConfig, kept: list[KeptLayer]) -> list[LayerConnections]:
    """The layers of ``kept`` with their sources; raises ``ValueError`` if they are another network's."""
    expected = layer_sources(config)
    if len(kept) not in (len(expected), len(expected) - 1):
        raise ValueError(f"{len(kept)} condensed layers, where the network has {len(expected)}")
    layers = []
    for layer, (name, sources) in zip(kept, expected, strict=False):
        width = sources[-1].start + sources[-1].size
        if layer.in_channels != width:
            raise ValueError(f"{layer.name} has {layer.in_channels} input channels, where {name} has {width}")
        layers.append(LayerConnections(name=name, sources=sources, layer=layer))
    return layers


def layer_sources(config: ModelConfig) -> list[tuple[str, tuple[Source, ...]]]:
    """(short name, sources) of every learned group convolution in order, and of the classifier at the end.

    Layer 2 of block 1 is called "1.2"; the transition after block 1, if it has weights, "t1".
    """
    sources, layers = [Source("stem", 0, config.stem_channels)], []
    last = len(config.block_depths)
    for block, (depth, rate) in enumerate(zip(config.block_depths, config.growth_rates, strict=True), 1):
        for layer in range(1, depth + 1):
            layers.append((f"{block}.{layer}", tuple(sources)))
            sources.append(Source(f"{block}.{layer}", sources[-1].start + sources[-1].size, rate))
        if config.reduction is not None and block < last:
            layers.append((f"t{block}", tuple(sources)))
            width = sources[-1].start + sources[-1].size
            sources = [Source(f"t{block}", 0, config.transition_channels(width))]
    layers.append(("classifier", tuple(sources)))
    return layers


def source_names(layers: list[LayerConnections]) -> list[str]:
    """Every source once, in the order of the network."""
    return list(dict.fromkeys(source.name for layer in layers for source in layer.sources))
