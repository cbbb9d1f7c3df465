"""The maths of condensing as pure functions: when to drop, what to drop, and the group lasso.

A learned group convolution divides the O filters of a 1x1 convolution into G interleaved groups: filter o belongs to
group o mod G. A mask holds which of the I inputs each group still reads. Paper: section 4.1.

Shapes: O filters (outputs), I inputs, G groups, K = O / G filters per group, D inputs to drop per group.
``w_KGI[k, g]`` is filter k * G + g.
"""

from __future__ import annotations

from math import floor
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["gradual", "one-shot", "random"]

LASSO_FLOOR = 1e-6  # for a sum of squares: the gradient of the square root is infinite at 0
ROUNDING = 1e-9  # so that a drop due at share * i / n is done at exactly that progress


def condensing_stage(
    progress: float, num_condensing_stages: int, share: float = 0.5, *, schedule: Schedule = "gradual"
) -> int:
    """The condensing stage that is due at ``progress``: drop i is due at ``share * i / num_condensing_stages``.

    ``progress`` is the share of training done, in [0, 1]. All drops are done after the first ``share`` of training, in
    (0, 1] (paper: one half). With ``schedule="one-shot"`` all drops are due at ``share``, with ``"random"`` from the
    start. Raises ``ValueError`` outside these ranges.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress={progress} is not allowed: it must be in [0, 1]")
    if not 0 < share <= 1:
        raise ValueError(f"share={share} is not allowed: it must be in (0, 1]")
    if num_condensing_stages < 0:
        raise ValueError(f"num_condensing_stages={num_condensing_stages} is not allowed: it must be 0 or more")
    if schedule == "random":
        return num_condensing_stages
    if schedule == "one-shot":
        return num_condensing_stages if progress + ROUNDING >= share else 0
    return min(num_condensing_stages, floor(progress * num_condensing_stages / share + ROUNDING))


def by_group(weight: Tensor, groups: int) -> Tensor:
    """The (O, I, ...) weights of a 1x1 convolution or linear layer as a (K, G, I) view."""
    return weight.flatten(1).unflatten(0, (-1, groups))


def importance(weight: Tensor, groups: int) -> Tensor:
    """(G, I) L1 norm of each group's weights for each input, from (O, I, ...) weights."""
    return by_group(weight, groups).abs().sum(dim=0)


def drop_mask(mask: Tensor, weight: Tensor, n_drop: int) -> Tensor:
    """A new (G, I) mask in which each group drops the ``n_drop`` least important of its remaining inputs.

    ``mask`` is boolean, True for kept; ``weight`` is (O, I, ...). Among equally important inputs the one with the
    lower index is dropped first. Raises ``ValueError`` if a group has fewer than ``n_drop`` inputs left.
    """
    kept = int(mask.sum(dim=1).min())
    if not 0 <= n_drop <= kept:
        raise ValueError(f"{n_drop=} is not allowed: a group has {kept} inputs left")
    score_GI = importance(weight.detach(), mask.shape[0]).masked_fill(~mask, torch.inf)
    dropped_GD = score_GI.argsort(dim=1, stable=True)[:, :n_drop]
    return mask.scatter(1, dropped_GD, False)


def random_mask(inputs: int, groups: int, kept: int, generator: torch.Generator) -> Tensor:
    """A (G, I) mask that keeps ``kept`` random inputs per group, in [1, I].

    A random order of the inputs is dealt to the groups in turn, again and again, so the numbers of groups that read
    two inputs differ by at most one. With G = C every input is read by one group, as in a ShuffleNet.
    """
    order = torch.randperm(inputs, generator=generator)
    dealt_GR = order[torch.arange(groups * kept).reshape(groups, kept) % inputs]
    return torch.zeros(groups, inputs, dtype=torch.bool).scatter(1, dealt_GR, True)


def masked_weight(weight: Tensor, mask: Tensor) -> Tensor:
    """(O, I, ...) weights with zero for every dropped connection, which therefore gets no gradient."""
    return (by_group(weight, mask.shape[0]) * mask).reshape(weight.shape)


def lasso(weight: Tensor, groups: int) -> Tensor:
    """The group lasso: the L2 norms of each group's weights for each input, summed; from (O, I, ...) weights.

    As in the authors' code, each norm is at least 1e-3, the square root of a floor of 1e-6. A connection at the floor,
    such as every dropped one, adds this constant and has no gradient.
    """
    return by_group(weight, groups).square().sum(dim=0).clamp(min=LASSO_FLOOR).sqrt().sum()
