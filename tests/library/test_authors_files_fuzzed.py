"""Files of the authors' format with changed bytes, cut off, or with another pickle inside: a network or one line."""

from __future__ import annotations

import dataclasses
import io
import pickle
import pickletools
import zipfile
from pathlib import Path

import pytest
import torch
from bounds import within_bounds
from hypothesis import example, given
from hypothesis import strategies as st
from networks import condensed

from condensenet import CondenseNet, ModelConfig, load
from condensenet.interop import authors_state_dict

CONFIG = ModelConfig(block_depths=(1, 1, 1), growth_rates=(8, 8, 8), groups_1x1=2, condensation_factor=2)
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4), st.integers(0, 8)), min_size=1, max_size=4
)
OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
PICKLED = st.lists(  # opcodes in the place of others, with numbers of all sizes
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(OPCODES) | st.integers(-(2**63), 2**63).map(lambda value: pickle.dumps(value, 2)[2:-1]),
        st.integers(0, 8),
    ),
    min_size=1,
    max_size=4,
)


def saved(*, zipped: bool) -> bytes:
    """A checkpoint; torch before 1.6 wrote it without an archive and its checksums."""
    state = {f"module.{name}": value for name, value in authors_state_dict(condensed(CONFIG)).items()}
    buffer = io.BytesIO()
    torch.save({"epoch": 3, "state_dict": state}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


ARCHIVED, LEGACY = saved(zipped=True), saved(zipped=False)
PICKLES = 8_700  # bytes at the start of the latter


def changed(content: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    for place, insertion, removed in changes:
        at = int(place * len(content))
        content = content[:at] + insertion + content[at + removed :]
    return content


def with_pickle_changed(changes: list[tuple[float, bytes, int]]) -> bytes:
    """An archive whose checksums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ARCHIVED)) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(entry.filename, changed(content, changes) if "data.pkl" in entry.filename else content)
    return buffer.getvalue()


def load_or_say_why(folder: Path, content: bytes) -> CondenseNet | None:
    path = folder / "model.pth"
    path.write_bytes(content)
    with within_bounds():
        try:
            model = load(path)
        except ValueError as error:
            line = str(error)
            assert line.isprintable()
            assert len(line) < 2000
            return None
    assert isinstance(model, CondenseNet)
    return model


@pytest.mark.parametrize("content", [ARCHIVED, LEGACY], ids=["archive", "legacy"])
def test_what_is_whole_is_loaded(content: bytes, tmp_path: Path) -> None:
    loaded = load_or_say_why(tmp_path, content)
    assert loaded is not None
    assert loaded.config == dataclasses.replace(CONFIG, condense_classifier=False)


@given(st.booleans(), CHANGES, st.floats(0, 1) | st.just(1.0))
@example(True, [(0.0, b"PK\3\4", 4)], 1.0)
def test_any_bytes_inside(
    tmp_path_factory: pytest.TempPathFactory, old: bool, changes: list[tuple[float, bytes, int]], kept: float
) -> None:
    content = changed(LEGACY if old else ARCHIVED, changes)
    load_or_say_why(tmp_path_factory.mktemp("changed"), content[: int(kept * len(content))])


@given(st.booleans(), PICKLED | CHANGES)
@example(True, [(0.6875, b"K\x00", 2)])
def test_any_pickle_inside(
    tmp_path_factory: pytest.TempPathFactory, old: bool, changes: list[tuple[float, bytes, int]]
) -> None:
    """Those of the old format come before the tensors' values, which are most of the file."""
    start = LEGACY[:PICKLES]
    content = changed(start, changes) + LEGACY[PICKLES:] if old else with_pickle_changed(changes)
    load_or_say_why(tmp_path_factory.mktemp("changed"), content)
