"""What a soak counts, from a log written by hand; the soak itself is `make soak`."""

from __future__ import annotations

import json
import random
from pathlib import Path

import markdown_tables
import pytest

from benchmarks.pages import speed_tables
from tests.faults import soak

EVENTS = [
    {"round": 0, "event": "begins", "trouble": "disk full"},
    {"round": 0, "event": "struck"},
    {"round": 0, "event": "run ended", "how": "FAILED"},
    {"round": 0, "event": "run ended", "how": "CRASHED"},
    {"round": 0, "event": "ends"},
    {"round": 1, "event": "begins", "trouble": "flow killed"},
    {"round": 1, "event": "lost", "what": "weights of c1"},
    {"round": 1, "event": "lost", "what": "c2 made again"},
    {"round": 1, "event": "ends"},
    {"round": 2, "event": "begins", "trouble": "disk full"},
    {"round": 2, "event": "struck"},
]


def test_the_tracked_counts_are_those_of_the_tracked_log() -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    rows = json.loads((folder / "soak.json").read_text())
    device = rows[0]["device"]
    counted = soak.counts(soak.read(folder / "soak.jsonl"), rows[0]["minutes"], rows[0]["seed"])
    assert [{**row, "device": device} for row in counted] == rows


def test_counts_by_trouble() -> None:
    killed, full = soak.counts(EVENTS, 5, 0)
    assert [killed[key] for key in ("trouble", "sweeps", "struck", "runs_ended", "lost")] == ["flow killed", 1, 0, 0, 2]
    assert [full[key] for key in ("trouble", "sweeps", "struck", "runs_ended", "lost")] == ["disk full", 2, 2, 2, 1]


def test_the_table_adds_up() -> None:
    rows = markdown_tables.rows(speed_tables.soak({"soak": soak.counts(EVENTS, 5, 0)}))
    assert [row["Lost"] for row in rows] == ["2", "1", "3"]
    assert rows[-1]["Trouble"] == "all"


@pytest.mark.parametrize("seed", range(3))
def test_every_trouble_has_its_turn(seed: int) -> None:
    turns = soak.in_turn(soak.TROUBLES, random.Random(seed))
    for _ in range(2):
        assert {next(turns) for _ in soak.TROUBLES} == set(soak.TROUBLES)


def test_a_full_disk_is_empty_afterwards(tmp_path) -> None:
    soak.fill(tmp_path / "filling", 0.0)
    assert list(tmp_path.iterdir()) == []
