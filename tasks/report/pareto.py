"""Which settings no other one beats in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def pareto(rows: Mapping[str, Sequence[float]]) -> list[str]:
    """The names whose figures, of which less is better, no other row equals or betters in all and betters in one."""
    return [name for name, own in rows.items() if not any(_dominates(other, own) for other in rows.values())]


def _dominates(other: Sequence[float], own: Sequence[float]) -> bool:
    pairs = list(zip(other, own, strict=True))
    return all(theirs <= ours for theirs, ours in pairs) and any(theirs < ours for theirs, ours in pairs)
