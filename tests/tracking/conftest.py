"""Fixtures of the tests of the tracking store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks import params, paths
from tasks.tracking import reconcile


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store; making one takes seconds, so the tests copy it."""
    from tasks.tracking.mlflow_store import Store

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{file}")
    return file


@pytest.fixture
def workspace(tmp_path: Path, fresh_store: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    shutil.copy(checkout / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(reconcile, "_memory", reconcile._Memory())
    manifest = {"name": "digits", "fingerprint": "a" * 64, "splits": {"train": 5, "validation": 2, "test": 3}}
    folder = params.load().paths.data
    folder.mkdir(parents=True)
    (folder / paths.MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


@pytest.fixture
def client(workspace: Path):
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
