"""Files of rows: what is no such file is named in one line, before anything is measured, and none is spoilt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.reporting import parser, read_rows, start, write_rows
from tasks.errors import UserError


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"model": "größer", "ms": 0.1, "rounds": 3, "note": None, "curve": [[1.0, 2.5]]}, {}]
    write_rows(tmp_path / "new" / "rows.json", rows)
    assert read_rows(tmp_path / "new" / "rows.json") == rows
    write_rows(None, rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"ratio": -float("inf")}])
def test_a_figure_that_is_no_number_leaves_the_file_as_it_was(tmp_path: Path, value: object) -> None:
    path = tmp_path / "rows.json"
    write_rows(path, [{"ms": 1.0}])
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"rows\.json is not written: latency=.*{str(value)[:3]}"):
        write_rows(path, [{"ms": 1.0}, {"ms": 1.0, "latency": value}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'[{"ms": 1.0}, {"ms"', "line 1"),
        (b'[{"ms": "\xff"}]', "'utf-8' codec can't decode byte 0xff"),
        ('[{"ms": 1.0}]'.encode("utf-16"), "'utf-8' codec"),
        (b'{"ms": 1.0}', "not a list of objects"),
        (b"[1.0]", "not a list of objects"),
        (b"null", "not a list of objects"),
        (b'[{"ms": NaN}]', "NaN is no finite number"),
        (b'[{"ms": -Infinity}]', "-Infinity is no finite number"),
        (b'[{"ms": 1e999}]', "1e999 is no finite number"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_without_rows_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_rows(path)
    assert str(error.value).startswith(f"{path} has no rows of a table: ")
    assert reason in str(error.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.json")
    for name, reason in (("folder", "directory"), ("link", "No such file"), ("pipe", "not a regular file")):
        with pytest.raises(UserError, match=rf"{name}\.json .*{reason}"):
            read_rows(tmp_path / f"{name}.json")


def test_a_file_that_cannot_be_written_is_refused_as_arguments_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused = {tmp_path: "Is a directory", tmp_path / "file" / "rows.json": "Not a directory"}
    refused |= {
        tmp_path / "link" / "rows.json": "No such file",
        Path("/proc/rows.json"): "",
        Path("/"): "Is a directory",
    }
    before = sorted(tmp_path.rglob("*"))
    for path, reason in refused.items():
        monkeypatch.setattr("sys.argv", ["ray_overhead", "--json", str(path)])
        with pytest.raises(SystemExit, match=f"^error: {path} cannot be written: .*{reason}"):
            start(lambda: print(parser("").parse_args()))
    for allowed in (tmp_path / "new" / "folder" / "rows.json", tmp_path / "file"):
        monkeypatch.setattr("sys.argv", ["ray_overhead", "--json", str(allowed)])
        assert parser("").parse_args().json == allowed
    assert sorted(tmp_path.rglob("*")) == before
