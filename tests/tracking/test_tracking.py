"""What reaches MLflow, on a real SQLite store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import headline_metrics, outputs, params, paths, server_addresses, tracking
from tasks.errors import UserError
from tasks.tracking import address, desired, metric_names, reconcile, registry, snapshots

AWAY = "http://127.0.0.1:9"  # the discard port: nothing listens there


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


def start(name: str = "g4-c2") -> dict:
    params_in_use = params.load()
    return tracking.start_execution(training(name), params_in_use, params_in_use.setting(name))


def training(name: str = "g4-c2") -> Path:
    folder = Path("state/train") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def train(name: str = "g4-c2", epochs: int = 2) -> None:
    """Go on with a training that ``start`` began."""
    rows = [
        {"epoch": epoch, "condensing_stage": epoch - 1, "train_loss": 1 / epoch, "seconds": 2.0}
        for epoch in range(1, epochs + 1)
    ]
    outputs.write_csv(training(name) / paths.HISTORY, rows)
    tracking.upload()


def finish(name: str = "g4-c2") -> None:
    """What the stage train does at its end."""
    out = paths.StudyPaths("digits").setting("train", name)
    run = json.loads((training(name) / paths.RUN).read_text())
    write(out / paths.RUN, run)
    write(out / paths.HISTORY, (training(name) / paths.HISTORY).read_text())
    write(out / paths.METRICS, {"seconds": 4.0, "images_per_second": 10.0})
    write(out / paths.MODEL, "weights")
    tracking.record(run, "train", finished=True)
    shutil.rmtree(training(name))


def evaluate(run: dict, error_pct: float) -> None:
    """What the stage evaluate does at its end."""
    errors = {"top1_error_pct": error_pct}
    file = paths.StudyPaths(run["study"]).setting("evaluate", run["setting"]) / paths.METRICS
    write(file, {"pytorch": errors, "onnxruntime": errors})
    tracking.record(run, "evaluate")


def export(run: dict) -> Path:
    """What the stage export does at its end; returns its folder."""
    folder = paths.StudyPaths(run["study"]).setting("export", run["setting"])
    write(folder / paths.EXPORT, {"file_bytes": 7})
    write(folder / paths.FORMS / "plain.onnx", "as torch.onnx writes it")
    write_onnx(folder / paths.ONNX)
    tracking.record(run, "export")
    return folder


def exported(runs: list[dict], card: str) -> dict[str, dict[str, str]]:
    """What the report says of the files that ``export`` wrote."""
    files = {run["execution_id"]: desired.onnx_model(run) for run in runs}
    return {
        execution: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "card": card}
        for execution, file in files.items()
        if file is not None
    }


def runs_of(client, study: str = "digits") -> list:
    """Of settings: without the run that has them below it."""
    experiment = client.get_experiment_by_name(study)
    found = [] if experiment is None else client.search_runs([experiment.experiment_id])
    return [run for run in found if run.info.run_name != "all settings"]


def history(client, run_id: str, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, metric))


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def write_onnx(file: Path, weight: float = 1.0) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.full((4, 3), weight, np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return file


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


def test_a_run_that_a_hanging_server_made_twice_is_one(workspace: Path, client) -> None:
    """A request that the client gave up and repeated is answered, too, when the server goes on."""
    from tasks.tracking.mlflow_store import EXECUTION

    run = start()
    experiment = client.get_experiment_by_name("digits").experiment_id
    for _ in range(2):
        client.create_run(experiment, tags={EXECUTION: run["execution_id"]}, run_name=run["setting"])
    train()
    finish()
    evaluate(run, 2.0)
    (found,) = runs_of(client)
    assert found.info.run_id == run["mlflow_run_id"]
    assert (found.info.status, found.data.metrics["test/error_pct"]) == ("FINISHED", 2.0)


def test_the_figure_of_a_stage_that_ran_again_is_the_latest(workspace: Path, client) -> None:
    run = start()
    for error_pct in (2.0, 3.0, 2.0):
        evaluate(run, error_pct)
        assert client.get_run(run["mlflow_run_id"]).data.metrics["test/error_pct"] == error_pct


@pytest.mark.parametrize("method", ["_log_epochs", "_log_figures", "_set_status", "_upload_onnx", "_model"])
def test_an_upload_killed_at_any_point_is_repeated_without_a_trace(
    workspace: Path, client, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from tasks.tracking.mlflow_store import Store

    run = start()
    train(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(reconcile._memory, "retry_at", float("inf"))  # leave the snapshots alone
        train(epochs=2)
        finish()
        export(run)
        evaluate(run, 2.0)
    done = getattr(Store, method)

    def killed(*arguments: object) -> None:
        done(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, method, killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.upload()
    assert snapshots.pending()
    reconcile._memory = reconcile._Memory()
    tracking.upload()
    assert snapshots.pending() == []

    (found,) = runs_of(client)
    assert found.info.status == "FINISHED"
    assert history(client, run["mlflow_run_id"], "train/loss") == [(1, 1.0), (2, 0.5)]
    assert history(client, run["mlflow_run_id"], "test/error_pct") == [(0, 2.0)]
    (model,) = client.search_logged_models([found.info.experiment_id])
    of_the_run = {"train/seconds", "train/images_per_second"}  # known before there was a model
    assert {metric.key: metric.value for metric in model.metrics} == {
        name: value for name, value in found.data.metrics.items() if name not in of_the_run
    }


def test_a_snapshot_that_cannot_be_written_leaves_no_draft(workspace: Path) -> None:
    run = start()
    write(Path("evaluation.txt"), "ok")
    before = set(snapshots.root().iterdir())
    with pytest.raises(OSError, match="missing"):
        tracking.record(run, "evaluate", artifacts=[(Path("evaluation.txt"), ""), (Path("missing.txt"), "")])
    assert set(snapshots.root().iterdir()) == before


def test_what_killed_processes_left_behind_is_removed(workspace: Path, client) -> None:
    run = start()
    left = snapshots.root() / f"{snapshots.DRAFT}0" / snapshots.ARTIFACTS
    for tidying in (reconcile.upload_everything, lambda: tracking.record(run, "evaluate")):
        left.mkdir(parents=True)
        assert snapshots.completed() == []
        os.utime(left.parent, (0, 0))
        tidying()
        assert left.exists()  # for its newest part may be what another machine is writing
        os.utime(left, (0, 0))
        tidying()
        assert [folder for folder in snapshots.root().iterdir() if folder.is_dir()] == snapshots.pending()


def test_the_run_of_a_study_ends_though_the_process_that_made_it_was_killed(workspace: Path, client) -> None:
    start()
    (experiment,) = [each for each in client.search_experiments() if each.name == "digits"]

    def whole():
        found = client.search_runs([experiment.experiment_id])
        return next(run.info for run in found if run.info.run_name == "all settings")

    client.update_run(whole().run_id, "RUNNING")  # as it is made
    start("g2-c2")
    assert whole().status == "FINISHED"


def test_tidying_while_others_put_and_remove_snapshots(workspace: Path) -> None:
    run = start()

    def put_and_remove() -> None:
        for _ in range(200):
            snapshots.remove(snapshots.put(snapshots.Snapshot(run=run, stage="train", time_ms=0, workspace="")))

    with ThreadPoolExecutor(2) as others:
        done = [others.submit(put_and_remove) for _ in range(2)]
        while not all(each.done() for each in done):
            snapshots.tidy()
    for each in done:
        each.result()


def test_the_onnx_model_carries_the_last_epoch_and_the_final_figures(workspace: Path, client) -> None:
    run = start("g2-c2")
    train("g2-c2")
    finish("g2-c2")
    export(run)
    evaluate(run, 2.5)

    found = client.get_run(run["mlflow_run_id"])
    (model,) = client.search_logged_models([found.info.experiment_id])
    metrics = {metric.key: metric.value for metric in model.metrics}
    assert {"train/loss": 0.5, "export/file_bytes": 7.0, "test/error_pct": 2.5}.items() <= metrics.items()
    assert (model.name, model.source_run_id, model.params) == ("g2-c2", found.info.run_id, {"G": "2", "C": "2"})
    described = Path(model.artifact_location.removeprefix("file://"), "MLmodel").read_text()
    assert "signature:" in described
    assert "saved_input_example_info" in described
    assert found.data.metrics["test/error_pct"] == 2.5
    assert [file.path for file in client.list_artifacts(found.info.run_id, "forms")] == ["forms/plain.onnx"]


def test_a_model_is_loaded_by_pyfunc_and_answers_its_example(workspace: Path, client) -> None:
    import mlflow

    run = start("g2-c2")
    train("g2-c2")
    finish("g2-c2")
    export(run)
    (model,) = client.search_logged_models([client.get_run(run["mlflow_run_id"]).info.experiment_id])
    mlflow.set_tracking_uri(f"sqlite:///{workspace / 'mlflow.db'}")
    try:
        loaded = mlflow.pyfunc.load_model(model.model_uri)
        example = loaded.input_example
        assert loaded.predict(example)["logits"].shape == (len(example), 3)
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    signature = loaded.metadata.signature
    assert [each.shape for each in signature.inputs] == [(-1, *np.asarray(example).shape[1:])]
    assert [(each.name, each.shape) for each in signature.outputs] == [("logits", (-1, 3))]


def test_settings_are_below_the_run_of_their_study(workspace: Path, client, tmp_path: Path) -> None:
    runs = [start(name) for name in ("g2-c2", "g4-c2")]
    for run, error_pct in zip(runs, (3.0, 2.0), strict=True):
        train(run["setting"])
        finish(run["setting"])
        export(run)
        evaluate(run, error_pct)
    (table := tmp_path / "table.csv").write_text("setting\n")
    metrics = {
        runs[0]["execution_id"]: {"test_error_pct": 3.0, "latency_ms": 1.0, "file_bytes": 7.0},
        runs[1]["execution_id"]: {"test_error_pct": 2.0, "latency_ms": 2.0, "file_bytes": 7.0},
    }
    for card in ("first", "second"):  # a report that is made again renews the cards, and makes no more versions
        tracking.record_study("digits", [table], exported(runs, card), metrics)

    experiment = client.get_experiment_by_name("digits")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"all settings", "g2-c2", "g4-c2"}
    whole = found["all settings"].info
    assert {found[run["setting"]].data.tags["mlflow.parentRunId"] for run in runs} == {whole.run_id}
    assert whole.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(whole.run_id)] == ["table.csv"]
    settings = {}
    for alias in ("best-error", "fastest", "smallest"):
        version = client.get_model_version_by_alias("condensenet-digits", alias)
        settings[alias] = version.tags["setting"]
        assert version.description == "second"
    assert settings == {"best-error": "g4-c2", "fastest": "g2-c2", "smallest": "g2-c2"}
    assert len(client.search_model_versions("name = 'condensenet-digits'")) == 2
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"  # else a page for language models
    view = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.comparison"])["state"])
    assert view["orderByKey"] in view["selectedColumns"]  # by time the UI would show one folded line


@pytest.mark.parametrize("gone", [False, True])
def test_settings_whose_study_has_two_runs_or_none_are_below_one_in_the_end(
    workspace: Path, client, gone: bool
) -> None:
    """Two machines may both find no run of the study, and make one each; or a user deletes it."""
    from tasks.tracking.mlflow_store import EXECUTION

    runs = [start(name) for name in ("g2-c2", "g4-c2")]
    for run in runs:
        train(run["setting"])
    children = [client.get_run(run["mlflow_run_id"]) for run in runs]
    study = client.get_run(children[0].data.tags["mlflow.parentRunId"])
    if gone:
        client.delete_run(study.info.run_id)
    else:
        tags = {EXECUTION: study.data.tags[EXECUTION]}
        other = client.create_run(study.info.experiment_id, tags=tags, run_name="all settings")
        client.set_tag(children[1].info.run_id, "mlflow.parentRunId", other.info.run_id)
    for run in runs:
        finish(run["setting"])
    for run in runs:  # the first one's later stages find that the second has moved
        export(run)
    found = client.search_runs([study.info.experiment_id])
    (whole,) = [run.info.run_id for run in found if run.info.run_name == "all settings"]
    assert [run.data.tags.get("mlflow.parentRunId", whole) for run in found] == [whole] * 3


def test_an_older_file_that_is_back_has_the_card_and_the_aliases(workspace: Path, client) -> None:
    """As after an experiment with another plan: the store knows two files of one training."""
    run = start("g2-c2")
    train("g2-c2")
    finish("g2-c2")
    folder = export(run)
    models = exported([run], "the first")
    write_onnx(folder / paths.ONNX, weight=2.0)
    tracking.record(run, "export")
    tracking.record_study("digits", [], models, {run["execution_id"]: {"test_error_pct": 1.0}})
    version = client.get_model_version_by_alias("condensenet-digits", "best-error")
    model = client.get_logged_model(version.tags["model_id"])
    assert model.tags["sha256"] == models[run["execution_id"]]["sha256"]
    assert len(client.search_model_versions("name = 'condensenet-digits'")) == 1


def test_a_registry_that_may_not_be_changed_stops_nothing(workspace: Path, client, monkeypatch, capsys) -> None:
    from mlflow.exceptions import PERMISSION_DENIED, MlflowException

    def refuse(*_: Any) -> None:
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    run = start("g2-c2")
    train("g2-c2")
    finish("g2-c2")
    export(run)
    monkeypatch.setattr(registry, "version", refuse)
    tracking.record_study("digits", [], exported([run], "card"), {})
    assert "tracking: condensenet-digits, a registered model, may not be changed: left alone" in capsys.readouterr().out
    assert snapshots.pending() == []


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


def test_with_the_store_away_work_goes_on_and_one_line_says_so(
    workspace: Path,
    client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    run = start()
    assert run["mlflow_run_id"] is None
    train()
    finish()
    folder = export(run)
    write(folder / paths.FORMS / "plain.onnx", "as a later run of the stage left it")
    (line,) = capsys.readouterr().out.splitlines()
    assert AWAY in line
    assert "python -m tasks.track" in line
    with pytest.raises(UserError, match=r"nothing listens there\): 2 snapshots waiting in") as error:
        reconcile.upload_everything()
    assert "\n" not in str(error.value)

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert reconcile.upload_everything().startswith("3 snapshots uploaded")  # also where the training began
    (found,) = runs_of(client)
    assert "restored_from" not in found.data.tags
    assert history(client, found.info.run_id, "train/loss") == [(1, 1.0), (2, 0.5)]
    kept = client.download_artifacts(found.info.run_id, "forms/plain.onnx", str(workspace))
    assert Path(kept).read_text() == "as torch.onnx writes it"


def test_training_again_while_the_store_is_away_loses_nothing_of_the_first(
    workspace: Path, client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    for error_pct in (2.0, 3.0):
        run = start()
        train()
        finish()
        evaluate(run, error_pct)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    reconcile.upload_everything()
    second, first = runs_of(client)  # the latest first
    assert [found.data.metrics["test/error_pct"] for found in (first, second)] == [2.0, 3.0]
    for found in (first, second):
        assert found.info.status == "FINISHED"
        assert history(client, found.info.run_id, "train/loss") == [(1, 1.0), (2, 0.5)]


def test_the_runs_id_is_noted_when_the_store_comes_back_during_training(
    workspace: Path, client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    run = start()
    assert not tracking.learn_run_id(training(), run)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    reconcile._memory.retry_at = 0.0
    train()
    assert tracking.learn_run_id(training(), run)
    (found,) = runs_of(client)
    assert json.loads((training() / paths.RUN).read_text())["mlflow_run_id"] == found.info.run_id


def outputs_of(run: dict) -> None:
    """The files that DVC would have restored for an execution with two epochs."""
    folders = paths.StudyPaths("digits")
    write(folders.setting("train", "g4-c2") / paths.RUN, run)
    rows = "epoch,condensing_stage,train_loss,seconds\n1,0,1.0,2.0\n2,1,0.5,2.0\n"
    write(folders.setting("train", "g4-c2") / paths.HISTORY, rows)
    write(folders.setting("convert", "g4-c2") / paths.COST, {"grouped": {"macs": 9, "paper_flops": 10, "params": 3}})
    error = {"top1_error_pct": 2.5, "top5_error_pct": 0.1}
    int8 = {"top1_error_pct": 3.5}
    write(folders.setting("evaluate", "g4-c2") / paths.METRICS, {"pytorch": error, "onnxruntime": error, "int8": int8})
    write(folders.setting("export", "g4-c2") / paths.EXPORT, {"file_bytes": 7, "max_relative_difference": 1e-7})
    write_onnx(folders.form("g4-c2", paths.LOWERED))
    write_latency(0.25)


def write_latency(median_ms: float) -> None:
    timed = [("lowered", 1, 1, median_ms, 0.5), ("plain", 1, 1, 0.75, 1.5), ("plain", 16, 2, 4.0, 2.0)]
    names = ("form", "batch", "threads", "median_ms", "ratio")
    rows = [dict(zip(names, row, strict=True)) for row in timed]
    write(paths.StudyPaths("digits").setting("benchmark", "g4-c2") / paths.LATENCY, {"rows": rows})


PULLED = {
    "execution_id": "e" * 32,
    "mlflow_run_id": "f" * 32,
    "study": "digits",
    "setting": "g4-c2",
    "started_at": "2026-01-02T03:04:05.000+00:00",
    "git_commit": "c" * 40,
    "params": {"G": "4", "C": "2"},
}


def assert_is_restored(found, client) -> None:
    assert found.data.tags["restored_from"] == "f" * 32
    assert found.data.tags["mlflow.source.git.commit"] == "c" * 40
    assert found.info.start_time == 1767323045000
    assert (found.info.status, found.info.end_time) == ("FINISHED", 1767323045000 + 4000)
    assert found.data.params == {"G": "4", "C": "2"}
    assert history(client, found.info.run_id, "train/condensing_stage") == [(1, 0.0), (2, 1.0)]
    wanted = {"macs": 9.0, "paper_flops": 10.0, "params": 3.0, "test_error_pct": 2.5, "file_bytes": 7.0}
    wanted |= {"latency_ratio": 0.5, "test_error_pct_int8": 3.5}
    wanted |= {"latency_ms_plain": 0.75, "latency_ratio_plain": 1.5, "latency_ms_plain_b16_t2": 4.0}
    assert {metric_names.in_store(name): value for name, value in wanted.items()}.items() <= found.data.metrics.items()
    assert len(client.search_logged_models([found.info.experiment_id])) == 1


def test_a_run_that_the_store_does_not_know_is_filled_from_the_tracked_files(workspace: Path, client) -> None:
    outputs_of(PULLED)
    write_latency(0.125)
    tracking.record(PULLED, "benchmark")
    (found,) = runs_of(client)
    assert_is_restored(found, client)
    assert history(client, found.info.run_id, "latency/ms") == [(0, 0.125)]
    assert reconcile.restore_everything().endswith("nothing, all are known")


def test_an_execution_whose_outputs_are_gone_keeps_what_its_run_json_says(workspace: Path, client) -> None:
    outputs_of({**PULLED, "execution_id": "d" * 32})
    other = {**PULLED, "study": "digits", "execution_id": "a" * 32}
    tracking.record(other, "benchmark")
    (found,) = runs_of(client)
    assert found.data.params == {"G": "4", "C": "2"}
    assert found.data.tags["restored_from"] == "f" * 32
    assert found.data.metrics["latency/ms"] == 0.25
    assert "cost/macs" not in found.data.metrics


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


def test_restoring_makes_the_runs_of_all_outputs_once(workspace: Path, client) -> None:
    run = start()
    train()
    finish()
    client.delete_run(run["mlflow_run_id"])
    outputs_of(run)
    assert reconcile.restore_everything().endswith("digits/g4-c2")
    (found,) = runs_of(client)
    assert found.data.tags["restored_from"] == run["mlflow_run_id"]
    assert found.info.status == "FINISHED"
    assert len(found.inputs.dataset_inputs) == 1
    assert reconcile.restore_everything().endswith("nothing, all are known")


@pytest.mark.parametrize("method", ["_create_run", "_log_identity", "_log_points"])
def test_restoring_that_was_killed_half_way_is_finished_later(
    workspace: Path, client, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from tasks.tracking.mlflow_store import Store

    outputs_of(PULLED)
    with monkeypatch.context() as patch:
        patch.setattr(Store, method, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reconcile.restore_everything()
    assert reconcile.upload_everything().startswith("1 snapshot uploaded")
    assert reconcile.restore_everything().endswith("nothing, all are known")
    (found,) = runs_of(client)
    assert_is_restored(found, client)


def test_a_snapshot_that_the_store_rejects_is_kept_and_holds_up_no_other(
    workspace: Path,
    client,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = start()
    tracking.record(run, "evaluate", metrics={"no?such:name": 1.0})
    evaluate(run, 2.0)
    (line,) = capsys.readouterr().out.splitlines()
    assert "a snapshot was rejected and is kept in" in line
    assert list(snapshots.root().glob(f"{snapshots.REJECTED}/*/{snapshots.SNAPSHOT}"))
    assert history(client, run["mlflow_run_id"], "test/error_pct") == [(0, 2.0)]


@pytest.mark.parametrize("text", ["{", "{}", '{"run": {}, "unexpected": 1}'])
def test_a_snapshot_that_cannot_be_read_holds_up_no_other(
    workspace: Path, client, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    write(snapshots.root() / "0000000000001-ab-evaluate-0" / snapshots.SNAPSHOT, text)
    run = start()
    assert run["mlflow_run_id"] is not None
    assert "a snapshot was rejected" in capsys.readouterr().out
    assert [snapshots.is_live(folder) for folder in snapshots.pending()] == [True]


def test_a_run_that_cannot_be_made_is_not_tried_for_ever(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

    from tasks.tracking.mlflow_store import Store

    def refuse(*_: object) -> None:
        raise MlflowException("no more runs", INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(Store, "_create_run", refuse)
    tracking.record(PULLED, "benchmark")
    assert snapshots.pending() == []
    first, second = capsys.readouterr().out.splitlines()
    assert "a snapshot was rejected" in first
    assert first.endswith("no more runs")
    assert second.endswith("its run cannot be made")


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_was_deleted_meanwhile_is_made_again(workspace: Path, client, what: str) -> None:
    run = start()
    train(epochs=1)
    if what == "run":
        client.delete_run(run["mlflow_run_id"])
    else:
        client.delete_experiment(client.get_run(run["mlflow_run_id"]).info.experiment_id)
    train(epochs=2)
    finish()
    evaluate(run, 2.0)
    (found,) = runs_of(client)
    assert found.data.metrics["test/error_pct"] == 2.0
    assert history(client, found.info.run_id, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert (found.data.params["G"], found.info.status) == ("4", "FINISHED")


def test_a_training_that_changes_its_store_is_whole_in_the_new_one(
    workspace: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    start()
    train(epochs=1)
    shutil.copy(fresh_store, workspace / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    train(epochs=2)
    finish()
    other = mlflow.MlflowClient(f"sqlite:///{workspace / 'other.db'}")
    (found,) = runs_of(other)
    assert history(other, found.info.run_id, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert (found.data.params["G"], found.info.status) == ("4", "FINISHED")


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


def test_a_checkout_whose_path_would_end_early_in_an_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "was?x").mkdir()
    monkeypatch.chdir(tmp_path / "was?x")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"was\?x: no \? is allowed") as error, tracking.uploader():
        pass
    assert "\n" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert address.uri() == "http://localhost:5000"


def test_the_default_store_is_the_checkouts_also_in_a_temporary_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / ".dvc" / "tmp" / "exps" / "x"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert address.uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    assert address.uri() == f"sqlite:///{tmp_path}/mine.db"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:5000/x", "https://***@host:5000/x"),
        ("https://me:se/cr:et@host:5000/x", "https://***@host:5000/x"),
        ("https://me:12/ab@host:5000", "https://***@host:5000"),
        ("https://me:12/ab@[::1]:5000/x", "https://***@[::1]:5000/x"),
        ("https://me:123456/ab@host", "https://***@host"),
        ("https://me:a/b@c@host", "https://***@host"),
        ("https://me:a@b/c@host:5000/x", "https://***@host:5000/x"),
        ("redis://:secret@host", "redis://***@host"),
        ("redis://:pa/ss@host", "redis://***@host"),
        ("redis://:12/ss@host", "redis://***@host"),
        ("https://me:a/b@one https://me:c/d@two", "https://***@one https://***@two"),
        ("http://one:5000/x,http://me:a/b@two:5000", "http://one:5000/x,http://***@two:5000"),
        (
            "API request to http://me:se@cret@host/api failed: (Max retries at http://host/a@b)",
            "API request to http://***@host/api failed: (Max retries at http://host/a@b)",
        ),
        (
            "postgresql://host/runs?user=me&password=secret&sslmode=require",
            "postgresql://host/runs?user=me&password=***&sslmode=require",
        ),
        (
            "https://b.s3.amazonaws.com/x?X-Amz-Security-Token=F%2FwoG=&X-Amz-Expires=9&X-Amz-Signature=0aF1",
            "https://b.s3.amazonaws.com/x?X-Amz-Security-Token=***&X-Amz-Expires=9&X-Amz-Signature=***",
        ),
        ("https://a.blob.core.windows.net/c/x?sp=r&sig=ab%2Bc%3D", "https://a.blob.core.windows.net/c/x?sp=r&sig=***"),
        ("http://h/x?api-token=abc", "http://h/x?api-token=***"),
        ("http://h/x?access_key=abc&n=1", "http://h/x?access_key=***&n=1"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=***"),
        ("('http://h/x?token=abc', 500)", "('http://h/x?token=***', 500)"),
        ("(http://h/x?password=a'b)c).", "(http://h/x?password=***)."),
    ],
)
def test_passwords_in_addresses_are_not_shown(text: str, shown: str) -> None:
    assert server_addresses.without_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/a@b",
        "http://host:5000/a/b@2x.png",
        "http://host/a:b@c",
        "http://[::1]:5000/a@b",
        "s3://bucket/models@1/x",
        "sqlite:////home/me/a:b@c/mlflow.db",
        "databricks://profile:scope",
        "ask me@example.org about http://host:5000 (or you@example.org:25)",
        "http://host:5000 and http://host:5001/x, says me@example.org",
        "http://host:5000/x?max_results=5&order_by=token&design=1",
        "token=abc is no address",
    ],
)
def test_of_what_holds_no_password_nothing_is_hidden(text: str) -> None:
    assert server_addresses.without_secrets(text) == text


STEPS = """
import os, signal, sys
from pathlib import Path
from tasks import params, tracking
from tasks.tracking import snapshots
from tasks.tracking.mlflow_store import Store

def killed_after(owner, name):
    done = getattr(owner, name)
    def step(*arguments, **named):
        done(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, step)

owner, _, name = sys.argv[1].partition(".")
killed_after({"tracking": tracking, "snapshots": snapshots, "Store": Store}[owner], name)
params_in_use = params.load()
tracking.start_execution(Path("state/train/g4-c2"), params_in_use, params_in_use.setting("g4-c2"))
"""


@pytest.mark.parametrize(
    "step",
    ["tracking._write_run", "snapshots.put", "Store._create_run", "Store._log_identity", "snapshots.note_run_id"],
)
def test_an_execution_killed_while_it_starts_has_one_run_in_the_end(workspace: Path, client, step: str) -> None:
    training()
    killed = subprocess.run([sys.executable, "-c", STEPS, step], env=environment(), timeout=180)
    assert killed.returncode == -signal.SIGKILL
    before = json.loads((training() / paths.RUN).read_text())
    run = start()
    assert run["execution_id"] == before["execution_id"]
    train()
    finish()
    (found,) = runs_of(client)
    assert (found.info.run_id, found.info.status) == (run["mlflow_run_id"], "FINISHED")
    assert snapshots.pending() == []


def test_an_uploader_whose_store_fails_after_a_while_soon_tries_again(
    workspace: Path, client, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    passes = []

    def fail_the_third(*_: object) -> int:
        passes.append(time.monotonic())
        if len(passes) == 3:
            raise address.Unreachable("gone")
        return 0

    monkeypatch.setattr(reconcile, "_upload_all", fail_the_third)
    reconcile.upload(ended=threading.Event())
    assert len(passes) == 3
    assert reconcile.is_unreachable()
    assert reconcile._memory.retry_at < passes[2] + 1.0


def test_the_links_are_shown_while_an_uploader_is_at_work(workspace: Path, client) -> None:
    start()
    with snapshots.locked() as held:
        assert held
        assert len(reconcile.links("http://127.0.0.1:5000")) == 1


WRITER = """
import sys
from pathlib import Path
from tasks import outputs, params, paths, tracking
params_in_use = params.load()
name = sys.argv[1]
training = Path("state/train") / name
training.mkdir(parents=True)
run = tracking.start_execution(training, params_in_use, params_in_use.setting(name))
rows = []
for epoch in range(1, 6):
    rows.append({"epoch": epoch, "train_loss": 1 / epoch, "seconds": 0.5})
    outputs.write_csv(training / paths.HISTORY, rows)
    tracking.upload()
tracking.record(run, "train", artifacts=[(training / paths.HISTORY, "train")], finished=True)
"""


def test_several_processes_at_once_lose_nothing_on_a_store_not_yet_made(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///new.db")
    settings = ("g1-c1", "g4-c4")
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, name], env=environment()) for name in settings]
    assert [writer.wait(180) for writer in writers] == [0, 0]
    assert snapshots.pending() == []
    client = mlflow.MlflowClient(address.uri())
    assert sorted(run.info.run_name for run in runs_of(client)) == sorted(settings)
    for run in runs_of(client):
        assert run.info.status == "FINISHED"
        assert len(history(client, run.info.run_id, "train/loss")) == 5


def test_an_uploader_takes_what_stages_leave_to_it_and_is_gone_in_the_end(workspace: Path, client) -> None:
    messages: list[str] = []
    with tracking.uploader(messages.append):
        wait_for(uploading)
        run = start()
        train(epochs=1)
        wait_for(lambda: "train/loss" in client.get_run(run["mlflow_run_id"]).data.metrics)
        train(epochs=3)
        finish()
        assert reconcile._memory.store is None  # this process did not need MLflow
    assert not uploading()
    assert snapshots.pending() == []
    (found,) = runs_of(client)
    assert (found.info.run_id, found.info.status) == (run["mlflow_run_id"], "FINISHED")
    assert len(history(client, run["mlflow_run_id"], "train/loss")) == 3
    assert messages == []


def uploading() -> bool:
    """Whether some process holds the right to upload."""
    with snapshots.locked() as held:
        return not held


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def test_the_points_of_a_sweep_are_children_of_one_run(client, monkeypatch, tmp_path):
    grid = {"model.groups_1x1": [2, 4]}
    parent = tracking.start_sweep("digits", grid, "settings: both")
    monkeypatch.setenv(tracking.SWEEP, parent)
    children = [start(name) for name in ("g2-c2", "g4-c2")]
    assert tracking.start_sweep("digits", grid, "settings: both") == parent  # the same sweep goes on
    file = tmp_path / "sweep.csv"
    file.write_text("setting\n")
    tracking.record_sweep(parent, "digits", grid, [file, tmp_path / "missing"], status="FINISHED")
    (experiment,) = [found for found in client.search_experiments() if found.name == "digits"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"sweep", "g2-c2", "g4-c2"}
    assert runs["sweep"].info.status == "FINISHED"
    assert runs["sweep"].data.params == {"model.groups_1x1": "[2, 4]"}
    assert [found.path for found in client.list_artifacts(runs["sweep"].info.run_id)] == ["sweep.csv"]
    for child in children:
        assert runs[child["setting"]].data.tags["mlflow.parentRunId"] == runs["sweep"].info.run_id
    assert tracking.start_sweep("digits", {"model.groups_1x1": [1]}, "settings: one") != parent


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
