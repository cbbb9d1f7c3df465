"""Shards made on a Ray cluster: the same bytes, and one line for what a node does not see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_prepare_shards import content, prepare, source

from tasks import ray_local
from tasks.params import RayParams
from tasks.sources import ray_workers, workers

SCRIPT = """
from pathlib import Path
import numpy as np
from tasks.errors import UserError
from tasks.params import DataParams, RayParams
from tasks.sources import imagefolder, workers
from tasks.sources.ray_workers import make_on_cluster
from tasks.sources.shard_work import Job
from test_prepare_shards import prepare

workers.FEW_IMAGES = 0
ray = RayParams(num_workers=1)
prepare(shorter_side=20, ray=ray)
data = DataParams(source="imagefolder", path="raw", image_size=16)
train, away = imagefolder.read(data).train, Path("/not/there")
job = Job(file=away / "x.bin", record=away / "x.json", split="train", labels=train.labels[:1],
          stream=train.images(np.arange(1)), data=data, encoding="encoded", state="")
try:
    list(make_on_cluster([job], ray))
except UserError as error:
    print(error)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables that lead to a cluster of two processors."""
    monkeypatch.chdir(tmp_path)
    folders = os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parent)])
    monkeypatch.setenv("PYTHONPATH", folders)
    with ray_local.LocalRay(2, gpus=False) as own:
        ray_local.ask(own.folder)
        variables = {**own.variables, "RAY_ADDRESS": ray_local.join(own.folder)}
        variables[workers.WORKERS] = "none"  # so processes of this machine's own would be refused
        del variables[ray_local.VARIABLE]
        yield variables


def test_the_cluster_changes_no_byte(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(workers.WORKERS, "1")
    source()
    prepare(shorter_side=20)
    expected = content()
    Path("out").rename("here")
    Path("run.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "run.py"], env={**os.environ, **cluster}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert content() == expected
    last = done.stdout.splitlines()[-1]
    assert last.startswith("/not/there is not on the node "), done.stdout
    assert "all nodes must see the checkout under one path. Unset RAY_ADDRESS" in last


def test_a_cluster_is_used_for_much_work_and_shared_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = RayParams()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not ray_workers.has_cluster(shared, 3000)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert ray_workers.has_cluster(shared, 3000)
    assert not ray_workers.has_cluster(RayParams(storage="s3://bucket/ray"), 3000)
    assert not ray_workers.has_cluster(shared, 100)
