"""The train stage whose workers share an object store in place of a folder; in one process, without Ray."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from object_server import BUCKET
from test_train import run
from training_example import TRAIN

from condensenet.data.manifest import MANIFEST, Manifest
from tasks import lease, object_store, paths
from tasks.errors import UserError
from tasks.object_store import ObjectStore
from tasks.params import Params, Setting
from tasks.train_progress import ProgressRecorder


@pytest.fixture
def remote(params: Params, server: None, request: pytest.FixtureRequest) -> Params:
    return replace(params, ray=replace(params.ray, storage=f"s3://{BUCKET}/{request.node.name}"))


def trainings(remote: Params) -> ObjectStore:
    return ObjectStore(remote.ray.storage.removeprefix("s3://")).within("train/stripes/g2-c4")


def test_outputs_are_those_of_a_training_in_a_folder_and_nothing_is_left(params, remote, setting, ray):
    own = (run(params, setting) / paths.MODEL).read_bytes()
    shutil.rmtree("out/stripes/train")
    out = run(remote, setting)
    assert (out / paths.MODEL).read_bytes() == own
    assert {path.name for path in out.iterdir()} == {"model.pt", "run.json", "metrics.json", "history.csv"}
    assert list(Path("state/train/stripes/g2-c4").iterdir()) == []
    assert all(trainings(remote).within(name).names() == [] for name in trainings(remote).names())


def test_another_machine_goes_on_under_the_same_identity(remote, setting, ray, capsys):
    ray.fails = "a worker was lost"
    with pytest.raises(UserError, match="a worker was lost; run it again to resume"):
        run(remote, setting)
    (name,) = trainings(remote).names()
    identity = json.loads(trainings(remote).within(name).read(paths.RUN))
    shutil.rmtree("state")
    ray.fails = None
    out = run(remote, setting)
    assert "resumed after step 20" in capsys.readouterr().out
    assert json.loads((out / paths.RUN).read_text())["execution_id"] == identity["execution_id"]


def record(folder: Path, store: ObjectStore, params: Params, setting: Setting) -> None:
    with ProgressRecorder(folder, store, params, setting):
        time.sleep(600)


def test_stage_killed_while_mlflow_hangs_leaves_its_identity_in_the_store(remote, setting, tmp_path, monkeypatch):
    store = trainings(remote).within("killed")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        stage = multiprocessing.get_context("spawn").Process(target=record, args=(tmp_path, store, remote, setting))
        stage.start()
        try:
            silent.accept()
        finally:
            stage.kill()
            stage.join()
    assert store.read(paths.RUN) == (tmp_path / paths.RUN).read_bytes()


def test_stage_that_lost_its_lease_removes_nothing(remote, setting, ray, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.1)

    def somebody_takes_over() -> None:
        (name,) = trainings(remote).names()
        for _ in range(10):  # who has it renews it; one write may come between a renewal's look and its own write
            trainings(remote).within(name).write("stage.lease", b'{"owner": "somebody else"}')
            time.sleep(0.1)

    ray.afterwards = somebody_takes_over
    with pytest.raises(UserError, match=r"^another process has taken over s3://.*: run it again") as error:
        run(remote, setting)
    assert "\n" not in str(error.value)
    (name,) = trainings(remote).names()
    assert trainings(remote).within(name).within("checkpoints").names()


def test_interrupted_training_with_other_parameters_is_named_and_left_alone(remote, setting, ray, capsys):
    ray.fails = "a worker was lost"
    with pytest.raises(UserError):
        run(remote, setting)
    (name,) = trainings(remote).names()
    ray.fails = None
    run(remote, replace(setting, train=replace(TRAIN, learning_rate=0.05)))
    said = capsys.readouterr().out
    assert f"the interrupted training in {trainings(remote)}/{name} is not resumed: train.learning_rate was 0.1" in said
    assert "resumed after" not in said
    assert trainings(remote).within(name).exists("fingerprint.json")


def test_images_are_there_for_nodes_that_do_not_see_the_checkout(remote, setting, ray):
    run(remote, setting)
    manifest = Manifest.load(remote.paths.data / MANIFEST)
    root = ObjectStore(remote.ray.storage.removeprefix("s3://"))
    assert set(root.within(f"data/{manifest.fingerprint}").names()) == {MANIFEST, *manifest.files}


def test_no_image_is_sent_to_the_store_before_the_cluster_is_known_to_suffice(remote, setting):
    too_much = replace(remote, ray=replace(remote.ray, num_workers=3, use_gpu=True))
    with pytest.raises(UserError, match=r"ray.num_workers=3 is not allowed: they need 3 GPUs, the cluster has 0"):
        run(too_much, setting)
    assert "data" not in ObjectStore(remote.ray.storage.removeprefix("s3://")).names()


def test_store_that_does_not_answer_is_one_line(remote, setting, ray, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    object_store.filesystem.cache_clear()
    with pytest.raises(UserError, match=r"^ray.storage=s3://trainings/.*: .*127.0.0.1") as error:
        run(remote, setting)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    object_store.filesystem.cache_clear()


def test_missing_bucket_is_one_line(remote, setting, ray):
    nobodys = replace(remote, ray=replace(remote.ray, storage="s3://nobodys/prefix"))
    with pytest.raises(UserError, match=r"^ray.storage=s3://nobodys/prefix: .*bucket does not exist"):
        run(nobodys, setting)
