"""Sides that load the same kind of batch; a row's figures checked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import data_throughput
from benchmarks.data_throughput import BASELINE, BATCH, FORMS
from tests.stages import image_sources as made

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def test_a_row_holds_the_median_and_the_ratio_to_the_baseline_of_the_same_round() -> None:
    times = {BASELINE: [0.002, 0.004, 0.006], "ours": [0.001, 0.001, 0.002]}
    row = data_throughput.row("ours", times, 5000.0)
    assert (row["cpu_ms"], row["images_s_core"], row["ratio"], row["kb"]) == (1.0, 1000.0, 3.0, 5.0)


def test_every_form_loads_a_batch(tmp_path: Path) -> None:
    images = [made.encoded(made.picture(number, 300 + number, 400 - number)) for number in range(2 * BATCH)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata={"class_names": json.dumps(["any"])})
    rows = [{"bytes": content, "path": None} for content in images]
    pq.write_table(pa.table([rows, [0] * len(rows)], schema=schema), tmp_path / "images.parquet")
    prepared, contents = data_throughput.prepare(tmp_path / "images.parquet", tmp_path)
    assert contents == images
    assert list(prepared) == list(FORMS)
    sides = {"theirs": data_throughput.pil(contents)}
    sides |= {form: data_throughput.ours(data) for form, data in prepared.items()}
    times = data_throughput.cpu_times(sides, rounds=2)
    assert all(len(each) == 2 and min(each) > 0 for each in times.values())
    stored = [data_throughput.stored_bytes(data) for data in prepared.values()]
    assert stored[1] > stored[2]
    assert stored[3] > 256 * 256 * 3


def test_photographs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.parquet is missing: give a Parquet file of photographs"):
        data_throughput.prepare(tmp_path / "none.parquet", tmp_path)
