"""Parquet files with changed bytes, odd columns and odd names are read, or refused in one line that names the file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import image_sources as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounds import within_bounds
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources import parquet


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("parquet")
    made.shards(folder, row_group_size=4)
    return (folder / "train.parquet").read_bytes()


def read_all(folder: Path) -> int:
    """How many images the source gives."""
    source = parquet.read(DataParams(source="parquet", path=str(folder), train="a.parquet", test="a.parquet"))
    select = source.train.images
    assert not isinstance(select, np.ndarray)
    images = list(select(np.arange(len(source.train.labels)))())
    assert all(isinstance(name, str) and isinstance(content, bytes) for name, content in images)
    return len(images)


@given(
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    kept=st.floats(0.5, 1),
)
def test_changed_bytes_are_refused_or_read(
    shard: bytes, tmp_path_factory: pytest.TempPathFactory, places: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(shard)
    for place, value in places:
        content[int(place * len(content))] = value
    folder = tmp_path_factory.mktemp("changed")
    (folder / "a.parquet").write_bytes(content[: round(kept * len(content))])
    with within_bounds(), suppress(UserError):
        assert read_all(folder) <= 2**20


def write(folder: Path, images: pa.Array, class_names: str, **options: Any) -> None:
    table = pa.table({"image": images, "label": pa.array([0] * len(images))})
    table = table.replace_schema_metadata({"class_names": class_names})
    pq.write_table(table, folder / "a.parquet", compression="zstd", **options)


@pytest.mark.parametrize("images", [1, 200])
def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path, images: int) -> None:
    write(
        tmp_path,
        pa.array([{"bytes": bytes(2 * 10**8 // images), "path": "x"}] * images),
        '["ant"]',
        use_dictionary=False,
    )
    with pytest.raises(UserError, match=r"a\.parquet: [\d,]+ bytes of it unpack to 200,\d{3},\d{3}: that cannot be"):
        read_all(tmp_path)


def test_a_small_file_of_twenty_million_rows_is_refused(tmp_path: Path) -> None:
    nothing = pa.nulls(2 * 10**7, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    labels = pa.repeat(pa.scalar(0), len(nothing))
    table = pa.table({"image": nothing, "label": labels}).replace_schema_metadata({"class_names": '["ant"]'})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="bytes of it unpack to 160,000,000"):
        read_all(tmp_path)


def test_an_image_that_is_in_the_file_once_for_many_rows_is_not_unpacked_for_all(tmp_path: Path) -> None:
    value = bytes(10_000_000)
    images = pa.array([{"bytes": value, "path": "x"}] * 100)
    write(tmp_path, images, '["ant"]', dictionary_pagesize_limit=2**30)
    del images
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    source = parquet.read(DataParams(source="parquet", path=str(tmp_path), train="a.parquet", test="a.parquet"))
    select = source.train.images
    assert not isinstance(select, np.ndarray)
    before, peak = pa.total_allocated_bytes(), 0
    for _, content in select(np.arange(100))():
        assert content == value
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 20 * len(value)


def test_names_nested_too_deep_and_a_field_of_numbers_are_refused(tmp_path: Path) -> None:
    picture = made.pictures(1)[0]
    write(tmp_path, pa.array([{"bytes": picture, "path": "x"}]), "[" * 100_000)
    with pytest.raises(UserError, match="its metadata has no class names"):
        read_all(tmp_path)
    write(tmp_path, pa.array([{"bytes": 5, "path": "x"}]), '["ant"]')
    with pytest.raises(UserError, match=r"column image has no field bytes \(binary\): it is struct<bytes: int64"):
        read_all(tmp_path)


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    paths = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    images = pa.StructArray.from_arrays([pa.array(made.pictures(1)), paths], ["bytes", "path"])
    write(tmp_path, images, '["ant"]')
    with pytest.raises(UserError, match=r"a\.parquet is damaged: "):
        read_all(tmp_path)
