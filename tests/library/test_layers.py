"""The layers, by the example of test_condensing: four filters, four inputs, two groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from condensenet.deploy.convert import grouped_state
from condensenet.models.layers import (
    CondensedGroupConv,
    CondensedLinear,
    LearnedGroupConv,
    LearnedLinear,
    channel_shuffle,
)

WEIGHT = torch.tensor(
    [
        [4.0, 1.0, 0.0, -2.0],
        [1.0, 1.0, 5.0, 0.0],
        [-1.0, 1.0, 3.0, 0.0],
        [-2.0, 0.0, 0.0, 3.0],
    ]
)
PIXEL = torch.tensor([1.0, 2.0, 3.0, 4.0])[None, :, None, None]


def _identity(norm: nn.BatchNorm2d) -> None:
    norm.running_var.fill_(1 - norm.eps)


def _layer(groups: int = 2, condensation_factor: int = 2, **rest) -> LearnedGroupConv:
    layer = LearnedGroupConv(4, 4, groups=groups, condensation_factor=condensation_factor, **rest).eval()
    layer.conv.weight.data.copy_(WEIGHT[:, :, None, None])
    _identity(layer.norm)
    return layer


def test_channel_shuffle_interleaves_the_groups():
    a0, a1, a2, b0, b1, b2 = range(6)
    x = torch.arange(6.0)[None, :, None, None]
    assert channel_shuffle(x, 2).flatten().tolist() == [a0, b0, a1, b1, a2, b2]
    assert channel_shuffle(x, 1).flatten().tolist() == [a0, a1, a2, b0, b1, b2]
    assert channel_shuffle(channel_shuffle(x, 2), 3).flatten().tolist() == list(range(6))


def test_a_learned_group_convolution_reads_what_its_groups_keep():
    layer = _layer()
    assert layer(PIXEL).flatten().tolist() == [4 + 2 - 8, 1 + 2 + 15, -1 + 2 + 9, -2 + 12]
    layer.condense_to(1)  # group 0 keeps inputs 0 and 2, group 1 inputs 2 and 3
    assert layer(PIXEL).flatten().tolist() == [4, 15, -1 + 9, 12]
    assert layer.kept_inputs().tolist() == [[0, 2], [2, 3]]
    assert layer.mask[:, :, 0, 0].int().tolist() == [[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 1]]


def test_the_condensed_group_convolution_by_hand():
    layer = _layer()
    layer.condense_to(1)
    state = grouped_state(layer)
    assert state["index"].tolist() == [0, 2, 2, 3]
    assert state["conv.weight"][:, :, 0, 0].tolist() == [[4, 0], [-1, 3], [5, 0], [0, 3]]  # filters 0, 2, 1, 3
    grouped = CondensedGroupConv(4, 4, groups=2, condensation_factor=2).eval()
    grouped.load_state_dict(state)
    assert grouped(PIXEL).flatten().tolist() == [4, 15, 8, 12]


def test_more_groups_than_the_condensation_factor_gathers_inputs_repeatedly():
    layer = _layer(groups=4)
    layer.condense_to(1)
    assert grouped_state(layer)["index"].tolist() == [0, 3, 1, 2, 1, 2, 0, 3]


def test_a_learned_linear_layer_drops_at_the_last_condensing_stage():
    layer = LearnedLinear(4, 4, num_condensing_stages=3).eval()
    layer.linear.weight.data.copy_(WEIGHT)
    nn.init.constant_(layer.linear.bias, 0.5)
    layer.condense_to(2)
    assert layer(PIXEL.flatten(1)).tolist() == [[-1.5, 18.5, 10.5, 10.5]]
    assert layer.condensing_stage == 2
    layer.condense_to(3)  # importances 8, 3, 8, 5
    assert layer(PIXEL.flatten(1)).tolist() == [[4.5, 16.5, 8.5, -1.5]]
    grouped = CondensedLinear(4, 4)
    grouped.load_state_dict(grouped_state(layer))
    assert grouped.index.tolist() == [0, 2]
    assert grouped(PIXEL.flatten(1)).tolist() == [[4.5, 16.5, 8.5, -1.5]]


def test_dropout_is_there_in_training_alone():
    layer = _layer(dropout=0.5)
    assert torch.equal(layer(PIXEL), layer(PIXEL))
    layer.train()
    layer.norm.eval()
    torch.manual_seed(0)
    outputs = {tuple(layer(PIXEL).flatten().tolist()) for _ in range(20)}
    assert len(outputs) > 1


def test_a_dropped_connection_is_not_revived_by_the_optimiser():
    layer = _layer().train()
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)
    images = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    layer(images).square().mean().backward()
    optimiser.step()  # now there is momentum
    layer.condense_to(1)
    dropped = ~layer.mask
    for _ in range(3):
        optimiser.zero_grad()
        layer(images).square().mean().backward()
        assert not layer.conv.weight.grad[dropped].any()
        optimiser.step()
    assert not layer.weight_in_use()[dropped].any()
    layer.conv.weight.data[dropped] = 1e6
    expected = layer(images)
    layer.conv.weight.data[dropped] = 0
    assert torch.equal(layer(images), expected)


def test_loading_a_state_dict_loads_the_condensing_stage():
    layer, other = _layer(condensation_factor=4), _layer(condensation_factor=4)
    layer.condense_to(2)
    other.load_state_dict(layer.state_dict())
    assert (other.condensing_stage, other.is_condensed) == (2, False)
    assert torch.equal(other(PIXEL), layer(PIXEL))


def test_masks_of_unequal_groups_are_refused():
    layer = _layer()
    with pytest.raises(ValueError, match=r"keeps \[2, 3\] inputs"):
        layer.set_mask(torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool())
    with pytest.raises(ValueError, match=r"shape \(1, 4\) is not allowed: it must be \(2, 4\)"):
        layer.set_mask(torch.ones(1, 4, dtype=torch.bool))
    assert layer.num_dropped == 0


@pytest.mark.parametrize(
    ("channels", "groups", "factor", "message"),
    [
        ((6, 8), 4, 2, "in_channels=6 is not divisible by groups=4"),
        ((8, 6), 4, 2, "out_channels=6 is not divisible by groups=4"),
        ((8, 8), 4, 3, "in_channels=8 is not divisible by condensation_factor=3"),
    ],
)
def test_channels_that_do_not_divide_are_refused_with_both_numbers(channels, groups, factor, message):
    with pytest.raises(ValueError, match=message):
        LearnedGroupConv(*channels, groups=groups, condensation_factor=factor)
