"""The maths of condensing, by an example small enough to do by hand."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condensenet.models.condensing import condensing_stage, drop_mask, importance, lasso, masked_weight, random_mask

# Two groups of two filters: filters 0 and 2 are group 0, filters 1 and 3 are group 1.
WEIGHT = torch.tensor(
    [
        [4.0, 1.0, 0.0, -2.0],
        [1.0, 1.0, 5.0, 0.0],
        [-1.0, 1.0, 3.0, 0.0],
        [-2.0, 0.0, 0.0, 3.0],
    ]
)
ALL = torch.ones(2, 4, dtype=torch.bool)
ONE_DROPPED = torch.tensor([[1, 0, 1, 1], [1, 0, 1, 1]]).bool()  # group 0 ties at inputs 1 and 3: the lower goes
TWO_DROPPED = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1]]).bool()  # group 1 ties at inputs 0 and 3: the lower goes


def test_importance_is_the_l1_norm_over_the_filters_of_an_interleaved_group():
    assert importance(WEIGHT, 2).tolist() == [[5, 2, 3, 2], [3, 1, 5, 3]]
    assert importance(WEIGHT, 1).tolist() == [[8, 3, 8, 5]]
    assert importance(WEIGHT, 4).tolist() == WEIGHT.abs().tolist()


def test_the_least_important_remaining_inputs_are_dropped_first():
    assert torch.equal(drop_mask(ALL, WEIGHT, 1), ONE_DROPPED)
    assert torch.equal(drop_mask(ONE_DROPPED, WEIGHT, 1), TWO_DROPPED)
    assert torch.equal(drop_mask(ALL, WEIGHT, 2), TWO_DROPPED)
    assert torch.equal(drop_mask(TWO_DROPPED, WEIGHT, 0), TWO_DROPPED)
    assert ALL.all()  # the mask that was given is not changed


def test_a_dropped_input_stays_dropped_even_if_its_weights_grow():
    weight = WEIGHT.clone()
    weight[:, 1] = 100.0
    assert not drop_mask(ONE_DROPPED, weight, 1)[:, 1].any()


def test_equal_weights_drop_from_the_lowest_index_on():
    assert drop_mask(ALL, torch.zeros(4, 4), 2).tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize("n_drop", [-1, 3])
def test_dropping_more_than_is_left_is_refused(n_drop):
    with pytest.raises(ValueError, match=f"n_drop={n_drop} is not allowed: a group has 2 inputs left"):
        drop_mask(TWO_DROPPED, WEIGHT, n_drop)


def test_masked_weight_zeroes_by_group_and_gives_the_dropped_no_gradient():
    weight = WEIGHT[:, :, None, None].clone().requires_grad_()
    masked = masked_weight(weight, TWO_DROPPED)
    expected = torch.tensor([[4, 0, 0, 0], [0, 0, 5, 0], [-1, 0, 3, 0], [0, 0, 0, 3]]).float()
    assert torch.equal(masked[:, :, 0, 0], expected)
    masked.sum().backward()
    assert weight.grad[:, :, 0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 1]]


def test_lasso_is_the_sum_of_l2_norms_over_the_filters_of_a_group():
    expected = sqrt(17) + sqrt(2) + 3 + 2 + sqrt(5) + 1 + 5 + 3
    assert float(lasso(WEIGHT, 2)) == pytest.approx(expected)


def test_a_dropped_connection_adds_the_floor_to_the_lasso_and_no_gradient():
    weight = WEIGHT.clone().requires_grad_()
    value = lasso(masked_weight(weight, TWO_DROPPED), 2)
    assert value.item() == pytest.approx(sqrt(17) + 3 + 5 + 3 + 4 * 1e-3)
    value.backward()
    assert weight.grad.isfinite().all()
    assert weight.grad[:, 1].tolist() == [0, 0, 0, 0]
    assert weight.grad[0, 0] == pytest.approx(4 / sqrt(17))


def test_lasso_has_no_gradient_at_weights_of_zero():
    weight = torch.zeros(4, 4, requires_grad=True)
    lasso(weight, 2).backward()
    assert weight.grad.tolist() == torch.zeros(4, 4).tolist()


def test_condensing_stages_share_the_first_half_evenly():
    # C = 4: drops at 1/6, 2/6 and 3/6 of training.
    progress = [0.0, 0.16, 1 / 6, 0.3, 2 / 6, 0.49, 0.5, 1.0]
    assert [condensing_stage(p, 3) for p in progress] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [condensing_stage(p, 1) for p in (0.49, 0.5)] == [0, 1]
    assert condensing_stage(1.0, 0) == 0


def test_condensing_share_is_a_parameter():
    # The rule (C - 1) / C for C = 4: drops at 1/4, 2/4 and 3/4.
    assert [condensing_stage(p, 3, share=0.75) for p in (0.24, 0.25, 0.5, 0.74, 0.75)] == [0, 1, 2, 2, 3]


def test_one_shot_and_random_condensing_drop_once():
    assert [condensing_stage(p, 3, 0.75, schedule="one-shot") for p in (0, 0.74, 0.75, 1)] == [0, 0, 3, 3]
    assert [condensing_stage(p, 3, 0.75, schedule="random") for p in (0, 1)] == [3, 3]


@given(st.integers(1, 6), st.integers(1, 24), st.data())
def test_a_random_mask_reads_all_inputs_equally_often(groups, inputs, drawn):
    kept = drawn.draw(st.integers(1, inputs))
    mask = random_mask(inputs, groups, kept, torch.Generator().manual_seed(0))
    assert mask.sum(dim=1).tolist() == [kept] * groups
    readers = mask.sum(dim=0)
    assert readers.max() - readers.min() <= 1


@given(st.integers(1, 400), st.integers(1, 20), st.sampled_from([0.1, 0.3, 0.5, 0.75, 1.0]))
def test_every_stage_is_reached_in_order_and_the_last_by_the_share(steps, stages, share):
    reached = [condensing_stage(step / steps, stages, share) for step in range(steps + 1)]
    assert reached == sorted(reached)
    assert reached[0] == 0
    assert reached[-1] == stages
    assert all(stage == stages for step, stage in enumerate(reached) if step / steps >= share)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.1, 3), r"progress=1.1 is not allowed"),
        ((0.5, 3, 0.0), r"share=0.0 is not allowed"),
        ((0.5, -1), r"num_condensing_stages=-1 is not allowed"),
    ],
)
def test_a_schedule_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        condensing_stage(*arguments)
