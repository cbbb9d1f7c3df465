"""The maths of condensing, apart from any module: when to drop, what to drop, and the group lasso.

A learned group convolution splits the O filters of a 1x1 convolution into G groups, interleaved: filter o belongs
to group o mod G. A mask says which of the I inputs each group still reads. Paper: section 4.1.

Shapes: O filters (outputs), I inputs, G groups, K = O / G filters of a group. ``w_KGI[k, g]`` is filter k * G + g.
"""

from __future__ import annotations

from math import floor

import torch
from torch import Tensor

LASSO_FLOOR = 1e-6  # of a sum of squares: the square root's slope is infinite at 0
ROUNDING = 1e-9  # so that a progress of exactly share * i / n counts as reached


def condensing_stage(progress: float, num_condensing_stages: int, share: float = 0.5) -> int:
    """How many condensing stages are done at ``progress``: drop i happens at ``share * i / num_condensing_stages``.

    ``progress`` is the share of training done, in [0, 1]; ``share`` the share of training by whose end all drops
    are done (paper: one half). Raises ``ValueError`` outside these ranges.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress={progress} is not allowed: it must be in [0, 1]")
    if not 0 < share <= 1:
        raise ValueError(f"share={share} is not allowed: it must be in (0, 1]")
    if num_condensing_stages < 0:
        raise ValueError(f"num_condensing_stages={num_condensing_stages} is not allowed: it must be 0 or more")
    return min(num_condensing_stages, floor(progress * num_condensing_stages / share + ROUNDING))


def by_group(weight: Tensor, groups: int) -> Tensor:
    """The (O, I, ...) weights of a 1x1 convolution or linear layer as a (K, G, I) view."""
    return weight.flatten(1).unflatten(0, (-1, groups))


def importance(weight: Tensor, groups: int) -> Tensor:
    """(G, I) L1 norm of each group's weights on each input, from (O, I, ...) weights."""
    return by_group(weight, groups).abs().sum(dim=0)


def drop_mask(mask: Tensor, weight: Tensor, n_drop: int) -> Tensor:
    """A new (G, I) mask in which each group drops its ``n_drop`` least important inputs of those it still has.

    ``mask`` is boolean, True for kept; ``weight`` is (O, I, ...). Among equally important inputs the one with the
    lower index goes first. Raises ``ValueError`` if a group has fewer than ``n_drop`` inputs left.
    """
    kept = int(mask.sum(dim=1).min())
    if not 0 <= n_drop <= kept:
        raise ValueError(f"{n_drop=} is not allowed: a group has {kept} inputs left")
    score_GI = importance(weight.detach(), mask.shape[0]).masked_fill(~mask, torch.inf)
    dropped_GD = score_GI.argsort(dim=1, stable=True)[:, :n_drop]
    return mask.scatter(1, dropped_GD, False)


def masked_weight(weight: Tensor, mask: Tensor) -> Tensor:
    """(O, I, ...) weights with zero for every dropped connection, which so gets no gradient either."""
    return (by_group(weight, mask.shape[0]) * mask).reshape(weight.shape)


def lasso(weight: Tensor, groups: int) -> Tensor:
    """Sum over groups and inputs of the L2 norm of a group's weights on an input, from (O, I, ...) weights.

    As in the authors' code each norm is at least 1e-3, the square root of a floor of 1e-6. A connection at the
    floor, so every dropped one, adds that constant and has no gradient.
    """
    return by_group(weight, groups).square().sum(dim=0).clamp(min=LASSO_FLOOR).sqrt().sum()
