"""Plans that anyone may have written: they fit the network, or are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bounds import within_bounds
from hypothesis import example, given
from hypothesis import strategies as st
from networks import SMALL, condensed

from condensenet import convert
from condensenet.deploy.lowering import lower, portable_plan
from condensenet.deploy.lowering.plan import Plan

pytest.importorskip("onnx")

GROUPED = convert(condensed(SMALL))
PLAN = json.loads(portable_plan(GROUPED, 12).as_json())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def outcome(folder: Path, content: bytes) -> str:
    """How lowering by the plan in a file ends: "lowered" or a line."""
    path = folder / "plan.json"
    path.write_bytes(content)
    try:
        with within_bounds():
            lower(GROUPED, folder / "model.onnx", 12, plan=Plan.load(path))
    except ValueError as error:
        return str(error)
    return "lowered"


def is_one_line(text: str) -> bool:
    return text.isprintable() and len(text) < 1000


@given(st.sampled_from(sorted(PLAN)), VALUES)
@example("variants", {})
@example("variants", {**PLAN["variants"], "\x1b[31m" * 100: "x"})
@example("variants", dict.fromkeys(PLAN["variants"], "../../etc/passwd\n"))
@example("input_size", [10**9, 10**9])
@example("times_us", {"a": {"b": float("nan")}})
@example("network", "1\x9a\x8d")
def test_any_value_of_a_key(tmp_path_factory: pytest.TempPathFactory, key: str, value: Any) -> None:
    assert is_one_line(outcome(tmp_path_factory.mktemp("plan"), json.dumps({**PLAN, key: value}).encode()))


@given(st.binary(max_size=100))
@example(b"9" * 5000)
@example(b"[" * 100_000)
@example(b" " * 2**25)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    assert "is not a plan: " in outcome(tmp_path_factory.mktemp("plan"), content)
