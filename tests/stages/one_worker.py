"""The train stage in this process: one worker in place of Ray's, a tiny setting, a checkout with its data."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from training_example import AUGMENT, MODEL, TRAIN, write_stripes

from tasks import train_worker
from tasks.params import BenchmarkParams, DataParams, EvaluateParams, ExportParams, Params, RayParams, Setting


class OneWorker(types.ModuleType):
    """Stands for ``tasks.ray_cluster``: one worker, in this process. ``fails`` makes Ray give up with that reason."""

    fails: str | None = None
    afterwards: Callable[[], None] | None = None  # called once the worker has ended

    @contextmanager
    def cluster(self, _params: RayParams) -> Iterator[None]:
        yield

    def train(self, worker: Any, job: train_worker.Job, _params: RayParams, _storage: Path) -> str | None:
        try:
            worker({"job": job})
        except Exception as error:
            return str(error)
        if self.afterwards:
            self.afterwards()
        return self.fails


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> OneWorker:
    stand_in = OneWorker("tasks.ray_cluster")
    monkeypatch.setitem(sys.modules, "tasks.ray_cluster", stand_in)
    monkeypatch.setattr("tasks.ray_cluster", stand_in, raising=False)
    monkeypatch.setattr(train_worker, "start_process_group", lambda _job: 0)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    return stand_in


@pytest.fixture
def setting() -> Setting:
    return Setting(name="g2-c4", model=MODEL, train=TRAIN)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: Setting) -> Params:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    write_stripes(Path("out/stripes/data"))
    return Params(
        study="stripes",
        data=DataParams(source="digits", image_size=8, channels=1, augment=AUGMENT),
        ray=RayParams(num_workers=1),
        export=ExportParams(),
        evaluate=EvaluateParams(),
        benchmark=BenchmarkParams(),
        settings={setting.name: setting},
    )
