"""A training and its later stages as one run of a study, on a real SQLite store."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from executions import AWAY, evaluate, finish, history, runs_of, start, train, training, write

from tasks import headline_metrics, params, paths, tracking
from tasks.errors import UserError
from tasks.tracking import metric_names, reconcile, snapshots


def test_an_execution_becomes_one_run_of_the_studys_experiment(workspace: Path, client) -> None:
    run = start()
    train()
    finish()

    (found,) = runs_of(client)
    assert found.info.run_id == run["mlflow_run_id"]
    assert (found.info.run_name, found.info.status) == ("g4-c2", "FINISHED")
    assert (found.data.params["G"], found.data.params["C"]) == ("4", "2")
    assert found.data.params["model.block_depths"] == "2-2-2"
    assert found.data.params["model.reduction"] == "null"
    assert found.data.params["train.learning_rate"] == str(params.load().setting("g4-c2").train.learning_rate)
    assert found.data.params["data.augment.pad"] == "1"
    assert history(client, found.info.run_id, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert (found.data.metrics["train/seconds"], found.data.metrics["train/images_per_second"]) == (4.0, 10.0)
    assert {"checkpoint", "train"} == {file.path for file in client.list_artifacts(found.info.run_id)}
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "a" * 12)
    assert json.loads(used.dataset.profile)["fingerprint"] == "a" * 64
    assert "MLFLOW_TRACKING_URI" not in os.environ  # MLflow sets it for the processes that this one starts
    assert snapshots.pending() == []
    (line,) = reconcile.links("http://127.0.0.1:5000/")
    assert line.startswith(f"digits: http://127.0.0.1:5000/#/experiments/{found.info.experiment_id}/runs?viewState")


def test_epochs_of_a_training_in_progress_are_seen_each_once(workspace: Path, client) -> None:
    run = start()
    for epochs in (1, 1, 3):
        train(epochs=epochs)
        assert history(client, run["mlflow_run_id"], "train/loss") == [
            (n, metric_names.rounded("train_loss", 1 / n)) for n in range(1, epochs + 1)
        ]
    assert client.get_run(run["mlflow_run_id"]).info.status == "RUNNING"
    started_ms = client.get_run(run["mlflow_run_id"]).info.start_time
    times = [point.timestamp - started_ms for point in client.get_metric_history(run["mlflow_run_id"], "train/loss")]
    assert times == [2000, 4000, 6000]


def test_an_epoch_done_again_after_a_kill_is_no_second_one(workspace: Path, client) -> None:
    run = start()
    train(epochs=2)
    text = (training() / paths.HISTORY).read_text()
    (training() / paths.HISTORY).write_text(text.replace("2.0", "3.0"))  # the same, but slower
    reconcile._memory = reconcile._Memory()  # as in another process
    assert start() == run
    finish()
    assert history(client, run["mlflow_run_id"], "train/loss") == [(1, 1.0), (2, 0.5)]


def test_a_resumed_training_is_running_again_and_a_failed_one_failed(workspace: Path, client) -> None:
    run = start()
    train(epochs=1)
    tracking.record_failure(run, training())
    assert client.get_run(run["mlflow_run_id"]).info.status == "FAILED"
    assert snapshots.pending() == []
    assert start() == run
    train(epochs=2)
    assert client.get_run(run["mlflow_run_id"]).info.status == "RUNNING"
    assert history(client, run["mlflow_run_id"], "train/loss") == [(1, 1.0), (2, 0.5)]


def test_an_interrupted_training_whose_folder_was_removed_was_killed(workspace: Path, client) -> None:
    run = start()
    shutil.rmtree(training())
    tracking.upload()
    assert client.get_run(run["mlflow_run_id"]).info.status == "KILLED"
    assert snapshots.pending() == []


def test_a_training_that_ended_before_it_began_by_the_clock_is_finished(workspace: Path, client) -> None:
    run = start()
    train()
    (live,) = snapshots.pending()
    live.rename(live.with_name("9" * 13 + live.name[13:]))  # what follows is of before that
    finish()
    tracking.upload()
    assert client.get_run(run["mlflow_run_id"]).info.status == "FINISHED"
    assert snapshots.pending() == []


def test_later_stages_do_not_make_a_training_longer(workspace: Path, client) -> None:
    run = start()
    train()
    finish()
    ended = client.get_run(run["mlflow_run_id"]).info.end_time
    evaluate(run, 2.0)
    tracking.record(run, "report", metrics={"test_error_pct": 2.0}, tags={"dvc.a": "b"}, artifacts=[], finished=True)
    assert history(client, run["mlflow_run_id"], "test/error_pct") == [(0, 2.0)]  # the same figure is no new point
    found = client.get_run(run["mlflow_run_id"])
    assert (found.info.status, found.info.end_time, found.data.tags["dvc.a"]) == ("FINISHED", ended, "b")


def test_the_figure_of_a_stage_that_ran_again_is_the_latest(workspace: Path, client) -> None:
    run = start()
    for error_pct in (2.0, 3.0, 2.0):
        evaluate(run, error_pct)
        assert client.get_run(run["mlflow_run_id"]).data.metrics["test/error_pct"] == error_pct


def test_no_parameter_is_logged_twice(workspace: Path, client) -> None:
    start("g2-c2")
    (found,) = runs_of(client)
    assert not {"model.groups_1x1", "model.condensation_factor"} & found.data.params.keys()
    assert found.data.params["initial"] == "null"


@pytest.mark.parametrize(
    ("name", "stored", "value", "kept"),
    [
        ("test_error_pct", "test/error_pct", 2.7777, 2.78),
        ("latency_ms_plain", "latency/ms_plain", 0.123456, 0.1235),
        ("macs", "cost/macs", 65816394.0, 65816394.0),
        ("learning_rate", "train/learning_rate", 0.0123456, 0.0123456),
        ("seconds", "train/epoch_seconds", 12.3456, 12.35),
        ("train_seconds", "train/seconds", 1234.567, 1235.0),
        ("latency_ms/mobilenet_v1/plain", "latency_ms/mobilenet_v1/plain", 10.66535, 10.67),
    ],
)
def test_metrics_are_grouped_and_rounded_to_what_they_mean(name: str, stored: str, value: float, kept: float) -> None:
    assert metric_names.in_store(name) == stored
    assert metric_names.rounded(name, value) == kept


def test_figures_of_latency_and_their_names() -> None:
    row = {"batch": 1, "threads": 1, "median_ms": 0.25, "ratio": 0.5}
    assert headline_metrics.latency_metrics({"rows": [row]}) == {
        "latency_ms": 0.25,
        "latency_ratio": 0.5,
    }  # by one file alone
    named = {"rows": [{**row, "form": "lowered"}, {**row, "form": "native", "median_ms": 0.125}]}
    assert headline_metrics.latency_metrics(named) == {
        "latency_ms": 0.25,
        "latency_ratio": 0.5,
        "latency_ms_native": 0.125,
        "latency_ratio_native": 0.5,
    }


def test_dvc_tags_are_the_hashes_of_the_settings_outputs(tmp_path: Path) -> None:
    lock = write(
        tmp_path / "dvc.lock",
        """
schema: '2.0'
stages:
  prepare: {cmd: a, outs: [{path: out/digits/data, hash: md5, md5: 11.dir}]}
  train@g4-c2: {cmd: b, outs: [{path: out/digits/train/g4-c2/model.pt, md5: '22'}, {path: out/x/run.json}]}
  train@g4-c4: {cmd: b, outs: [{path: out/digits/train/g4-c4/model.pt, md5: '33'}]}
""",
    )
    assert tracking.dvc_hashes("g4-c2", lock) == {"prepare.data": "11.dir", "train.model.pt": "22"}
    assert tracking.dvc_hashes("g4-c2", tmp_path / "absent") == {}
    for end in range(0, len(lock.read_text()), 7):
        tracking.dvc_hashes("g4-c2", write(tmp_path / "half", lock.read_text()[:end]))  # no exception


def test_the_figures_of_a_device_are_read_back_by_execution(workspace: Path, client, monkeypatch) -> None:
    run = start()
    (found,) = runs_of(client)
    assert tracking.metrics_of(run) == {}
    client.log_metric(found.info.run_id, "latency/ms_pi4", 7.0)
    assert tracking.metrics_of(run) == {"latency/ms_pi4": 7.0}
    assert tracking.metrics_of({**run, "execution_id": "0" * 32}) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    with pytest.raises(UserError, match="is unavailable"):
        tracking.metrics_of(run)
