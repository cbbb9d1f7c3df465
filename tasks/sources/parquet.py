"""Parquet shards of encoded images: ``image: struct{bytes, path}``, ``label: int64``, class names in the metadata.

Hugging Face distributes ImageNet and other image data sets in this format. The schema's metadata holds the class names,
as a JSON list under ``class_names`` or as the names of the label's ``ClassLabel`` under ``huggingface``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.text import MAX_SHOWN
from tasks.console import say
from tasks.errors import UserError, first_line
from tasks.params import DataParams
from tasks.sources.base import Part, Source, Stream, check_labels, data_path, file_state, identity

ROWS_AT_A_TIME = 4  # as many copies of a value that is in the file once; more save 2 microseconds an image
BUFFER_BYTES = 2**20  # else a whole row group is read at once
LABEL_BYTES = 8
UNPACKED_BYTES, UNPACKED_TIMES = 2**27, 100  # a part of a file may unpack to the sum: encoded images hardly compress


def read(data: DataParams) -> Source:
    root = data_path(data)
    shards = {key: _shards(root, getattr(data, key), key) for key in ("train", "test")}
    if shared := sorted(set(shards["train"]) & set(shards["test"])):
        say(f"warning: {shared[0].name} is used for training and for testing: the test error is meaningless")
    classes = _class_names(shards["train"][0])
    parts = {}
    for key, files in shards.items():
        labels = [_labels(file, classes) for file in files]
        location = str(files[0]) if len(files) == 1 else f"{root}/{getattr(data, key)}"
        select = partial(_select, files, np.cumsum([len(each) for each in labels]))
        parts[key] = Part(location, np.concatenate(labels), select, identity(map(file_state, files)))
    facts = {
        key: [{"file": file.name, "bytes": file.stat().st_size} for file in files] for key, files in shards.items()
    }
    return Source(classes=classes, train=parts["train"], test=parts["test"], facts=facts)


def read_labels(data: DataParams) -> np.ndarray:
    """The labels of all rows of the training files: int64 (rows,). Checks them as ``read`` does."""
    files = _shards(data_path(data), data.train, "train")
    classes = _class_names(files[0])
    return np.concatenate([_labels(file, classes) for file in files])


def _shards(root: Path, pattern: str, key: str) -> list[Path]:
    """The files named by ``pattern``: file names and globs separated by commas. Those of a glob are sorted."""
    files: list[Path] = []
    for glob in pattern.split(","):
        try:
            matches = sorted(path for path in root.glob(glob.strip()) if path.is_file())
        except (ValueError, IndexError, NotImplementedError):  # an empty name, ".", an absolute path
            matches = []
        if not matches:
            there = sorted(path.name for path in root.glob("*.parquet"))
            hint = f": there are {', '.join(there[:5])}" if there else ""
            raise UserError(f"data.{key}={glob.strip()} matches no file in {root}{hint}")
        files += matches
    return files


def _open(path: Path) -> Any:
    """Open the file and check its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged or not a Parquet file: {first_line(error)}") from None
    schema = file.schema_arrow
    names = schema.names
    if "image" not in names or not pa.types.is_struct(schema.field("image").type):
        raise UserError(f"{path}: column image (a struct of bytes and path) is missing: it has {', '.join(names)}")
    fields = {field.name: field.type for field in schema.field("image").type}
    if not any(is_kind(fields.get("bytes", pa.null())) for is_kind in (pa.types.is_binary, pa.types.is_large_binary)):
        raise UserError(f"{path}: column image has no field bytes (binary): it is {schema.field('image').type}")
    if "label" not in names or not pa.types.is_integer(schema.field("label").type):
        actual = f"label is {schema.field('label').type}" if "label" in names else f"it has {', '.join(names)}"
        raise UserError(f"{path}: column label (integers) is missing: {actual}")
    _check_unpacked(path, file.metadata)
    return file


def _check_unpacked(path: Path, metadata: Any) -> None:
    """A file of a few kB can unpack to gigabytes."""
    unpacked = [(metadata.num_rows * LABEL_BYTES, path.stat().st_size)]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        columns = [group.column(index) for index in range(group.num_columns)]
        unpacked += [(each.total_uncompressed_size, each.total_compressed_size) for each in columns]
    for size, packed in unpacked:
        if size > UNPACKED_BYTES + UNPACKED_TIMES * packed:
            raise UserError(f"{path}: {packed:,} bytes of it unpack to {size:,}: that cannot be encoded images")


def _class_names(path: Path) -> tuple[str, ...]:
    metadata = _open(path).schema_arrow.metadata or {}
    try:
        if b"class_names" in metadata:
            names = json.loads(metadata[b"class_names"])
        else:
            names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: its metadata has no class names: class_names must be a JSON list")
    return tuple(str(name) for name in names)


def _labels(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    """The labels, int64 (rows,). Checks them and the shard's class names."""
    import pyarrow as pa

    file = _open(path)
    if (own := _class_names(path)) != classes:
        raise UserError(f"{path}: its {len(own)} class names are not the {len(classes)} of the first training file")
    try:
        column = file.read(columns=["label"]).column("label")
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged: {first_line(error)}") from None
    if column.null_count:
        raise UserError(f"{path}: {column.null_count} rows have no label")
    labels = column.to_numpy().astype(np.int64)
    check_labels(str(path), labels, len(classes))
    return labels


def _select(files: list[Path], ends: np.ndarray, indices: np.ndarray) -> Stream:
    """``ends``: the number of images in the first file, the first two and so on."""
    numbers = np.searchsorted(ends, indices, side="right")
    starts = np.concatenate([[0], ends])
    parts = [(files[number], indices[numbers == number] - starts[number]) for number in np.unique(numbers)]
    return partial(_stream, parts)


def _stream(parts: list[tuple[Path, np.ndarray]]) -> Iterator[tuple[str, bytes]]:
    for path, rows in parts:
        for number, image in _rows(path, rows):
            image = image or {}
            named = (image.get("path") or "without a path")[:MAX_SHOWN]
            yield f"{path.name} row {number} ({named})", image.get("bytes") or b""


def _rows(path: Path, wanted: np.ndarray) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows with the numbers ``wanted``, in order; row groups without any are not read."""
    import pyarrow as pa

    file = _open(path)
    start = 0
    try:
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = wanted[(wanted >= start) & (wanted < end)]
            groups = [group] if len(inside) else []
            for batch in file.iter_batches(ROWS_AT_A_TIME, groups, ["image"], use_threads=False) if groups else ():
                here = inside[(inside >= start) & (inside < start + len(batch))]
                yield from zip(here.tolist(), batch.column(0).take(pa.array(here - start)).to_pylist(), strict=True)
                start += len(batch)
            start = end
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for a path
        raise UserError(f"{path} is damaged: {first_line(error)}") from None
