"""The stage graph, read from DVC: ``dvc.yaml`` alone defines the order of stages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from graphlib import TopologicalSorter

from condensenet.text import message_of
from tasks.errors import UserError

TABLES, BENCHMARK, REPORT = "tables", "benchmark", "report"
Graph = Mapping[str, frozenset[str]]  # stage -> the stages it depends on


def read_graph() -> dict[str, frozenset[str]]:
    """The stages of the working folder's ``dvc.yaml``, upstream first; raises ``UserError``."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(".") as repo, ExitStack() as stack:
            with suppress(LockError):  # held for seconds only by one that does not write dvc.lock
                stack.enter_context(repo.lock)
            graph = repo.index.graph  # an edge points to what a stage depends on
            dependencies = {
                stage.addressing: frozenset(upstream.addressing for upstream in graph.successors(stage))
                for stage in graph
            }
    except DvcException as error:
        raise UserError(f"dvc.yaml: {message_of(error)}") from None
    return {name: dependencies[name] for name in TopologicalSorter(dependencies).static_order()}


def keep_settings(graph: Graph, all_settings: Iterable[str], selected: Collection[str]) -> dict[str, frozenset[str]]:
    """Only the stages of the selected settings and what those depend on; the whole graph if no setting is left out."""
    if set(all_settings) <= set(selected):
        return dict(graph)
    needed: set[str] = set()
    for name, upstream in reversed(list(graph.items())):  # upstream comes first, so downstream is seen before it
        if name in needed or setting_of(name) in selected:
            needed |= {name, *upstream}
    return {name: upstream for name, upstream in graph.items() if name in needed}


def without(graph: Graph, *verbs: str) -> dict[str, frozenset[str]]:
    """The graph without the stages of these verbs, ``benchmark@g4-c2`` with ``benchmark``; no other may need them."""
    return {name: upstream for name, upstream in graph.items() if name.partition("@")[0] not in verbs}


def setting_of(stage: str) -> str | None:
    """``train@g4-c2`` belongs to the setting ``g4-c2``; ``prepare`` to none."""
    return stage.partition("@")[2] or None
