"""On a full disk an export and the making of the database fail in one line, lose nothing and keep no room."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import onnx
import pytest

from condensenet import CondenseNet, ModelConfig, convert, export_onnx
from tasks.tracking.address import Unreachable
from tasks.tracking.mlflow_store import Store

CONFIG = ModelConfig(block_depths=(1, 1), growth_rates=(8, 8), num_classes=3, condensation_factor=2)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes free."""
    other = disk / "other"
    other.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    return other


def test_an_export_that_does_not_fit_leaves_the_file_that_was_there(small_disk: Path) -> None:
    model = CondenseNet(CONFIG).eval()
    model.condense_to(model.config.num_condensing_stages)
    path = export_onnx(convert(model), small_disk / "model.onnx", 16)
    before = path.read_bytes()
    other = fill(small_disk, 4096)
    with pytest.raises(OSError, match="No space left") as error:
        export_onnx(convert(model), path, 24)
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert sorted(small_disk.iterdir()) == [path, other]
    onnx.checker.check_model(str(path))


def test_a_database_that_does_not_fit_is_made_once_there_is_room(small_disk: Path) -> None:
    other = fill(small_disk, 2**16)
    with pytest.raises(Unreachable):
        Store(f"sqlite:///{small_disk}/mlflow.db")
    assert not (small_disk / "mlflow.db").exists()
    other.unlink()
    Store(f"sqlite:///{small_disk}/mlflow.db")
    assert [path.name for path in small_disk.iterdir()] == ["mlflow.db"]
