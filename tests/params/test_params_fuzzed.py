"""Whatever stands in ``params.yaml``: it is read, or refused in one line, in little time and memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bounds import within_bounds
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import params, plain_yaml

HERE = Path(__file__).resolve().parents[2]
TEXT = (HERE / "params.yaml").read_text()
RAW = plain_yaml.parse(TEXT)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [10**30, -(10**400), 2**63, 2**31, 1.0, "010", "1e5", "s3://b", "/proc/x", "\0", "\u202e", "x" * 5000]
    ),
    st.floats(),
    st.text(max_size=20),
)
KEYS = st.one_of(st.text(max_size=10), st.sampled_from(["preset", "train", "model", "x" * 5000, "null", "A", "a"]))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)
FRAGMENTS = st.sampled_from(
    [
        *("&a", "*a", "<<: *a", "[", "]", "{", "}", ": ", "- ", "\n", "\n  ", "!!int ", "!!set ", "? ", "|", ">", "'"),
        *('"', "%", "---\n", "...\n", "#", "\t", "0x" + "f" * 2000, "9" * 4301, ".inf", ".nan", "~", "yes", "\u2028"),
    ]
)


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*here, key)
        yield from places(inner, (*here, key))


@contextmanager
def read_or_refused() -> Iterator[None]:
    with within_bounds():
        try:
            yield
        except ValueError as error:
            message = str(error)
            assert message
            assert message.isprintable()
            assert len(message) < 2000


@given(st.sampled_from(sorted(places(RAW), key=str)), VALUES)
@example(("train", "epochs"), 10**30)
@example(("model", "block_depths"), [10**7, 2, 2])
@example(("model", "growth_rates"), [10**9, 16, 32])
@example(("model", "groups_1x1"), {"a": [10**400]})
@example(("ray", "num_workers"), [1, 10**400])
def test_any_value_anywhere(place: tuple[Any, ...], value: Any) -> None:
    raw = copy.deepcopy(RAW)
    at = raw
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with read_or_refused():
        params.parse(raw)


@given(VALUES)
def test_any_data(value: Any) -> None:
    with read_or_refused():
        params.parse(value)


@given(st.lists(st.tuples(st.integers(0, len(TEXT)), FRAGMENTS | st.text(max_size=5), st.integers(0, 30)), max_size=4))
@example([(0, "[" * 5_000, 0)])
@example([(0, "- " * 500, 0)])
@example([(0, "a: &a {<<: *a}\n", 0)])
def test_any_text(changes: list[tuple[int, str, int]]) -> None:
    text = TEXT
    for start, insertion, removed in changes:
        text = text[:start] + insertion + text[start + removed :]
    with read_or_refused():
        params.parse(plain_yaml.parse(text))


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    with read_or_refused():
        plain_yaml.parse(content)
