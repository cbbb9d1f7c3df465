"""Which sources a layer's input channels come from, and how much of each it keeps: by hand on a small network."""

from __future__ import annotations

import dataclasses

import pytest

from condensenet.config import ModelConfig
from condensenet.models.presets import presets
from tasks.report.connections import LayerConnections, layer_connections, layer_sources, source_names
from tasks.report.results import KeptLayer

SMALL = ModelConfig(block_depths=(1, 2), growth_rates=(4, 8), groups_1x1=2, groups_3x3=1, condensation_factor=2)


def layer(kept: tuple[tuple[int, ...], ...], in_channels: int, weights: object = None) -> KeptLayer:
    return KeptLayer(
        name="layer",
        groups=len(kept),
        in_channels=in_channels,
        out_channels=16,
        kept=kept,
        mean_abs_weight=weights,  # type: ignore[arg-type]
    )


def test_features_keep_their_place_across_blocks() -> None:
    ranges = {name: [(s.name, s.start, s.size) for s in sources] for name, sources in layer_sources(SMALL)}
    assert ranges == {
        "1.1": [("stem", 0, 8)],
        "2.1": [("stem", 0, 8), ("1.1", 8, 4)],
        "2.2": [("stem", 0, 8), ("1.1", 8, 4), ("2.1", 12, 8)],
        "classifier": [("stem", 0, 8), ("1.1", 8, 4), ("2.1", 12, 8), ("2.2", 20, 8)],
    }


def test_a_transition_with_weights_hides_what_came_before_it() -> None:
    config = dataclasses.replace(SMALL, block_depths=(1, 1), growth_rates=(4, 4), reduction=0.5)
    sources_of = dict(layer_sources(config))
    assert [(s.name, s.start, s.size) for s in sources_of["t1"]] == [("stem", 0, 8), ("1.1", 8, 4)]
    assert [(s.name, s.start, s.size) for s in sources_of["2.1"]] == [("t1", 0, 6)]


@pytest.mark.parametrize("name", sorted(presets))
def test_the_sources_add_up_to_the_inputs_of_every_layer(name: str) -> None:
    config = presets[name]
    inputs = [in_channels for _, in_channels, _ in config.learned_convolutions()]
    sizes = [sum(s.size for s in sources) for _, sources in layer_sources(config)]
    assert sizes == [*inputs, config.num_features]


def test_densities_and_weights_by_hand() -> None:
    sources = dict(layer_sources(SMALL))["2.1"]
    kept = ((0, 1, 2, 3, 4, 5), (0, 1, 8, 9, 10, 11))  # of 8 + 4 channels
    weights = ((1.0,) * 6, (2.0, 2.0, 5.0, 5.0, 5.0, 5.0))
    connections = LayerConnections(name="2.1", sources=sources, layer=layer(kept, 12, weights))
    assert connections.density == 12 / 24
    assert connections.source_densities() == [8 / 16, 4 / 8]
    # stem: (6 * 1 + 2 * 2) / 8 channels = 1.25; layer 1.1: 4 * 5 / 4 channels = 5, the largest
    assert connections.source_weights() == [1.25 / 5, 1.0]


def test_a_layer_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="2 condensed layers, where the network has 4"):
        layer_connections(SMALL, [layer(((0,), (1,)), 8)] * 2)
    with pytest.raises(ValueError, match=r"8 input channels, where 2\.1 has 12"):
        layer_connections(SMALL, [layer(((0,), (1,)), 8)] * 3)


def test_the_classifier_is_a_layer_when_it_is_condensed() -> None:
    kept = [layer(((0,), (1,)), width) for width in (8, 12, 20)] + [layer(((0, 5),), 28)]
    layers = layer_connections(SMALL, kept)
    assert [connections.name for connections in layers] == ["1.1", "2.1", "2.2", "classifier"]
    assert source_names(layers) == ["stem", "1.1", "2.1", "2.2"]
