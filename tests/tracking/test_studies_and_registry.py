"""The run of a study or a sweep with its settings below it, and the models in the registry."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from executions import evaluate, export, exported, finish, start, train, write_onnx

from tasks import paths, tracking
from tasks.tracking import registry, snapshots


def test_the_run_of_a_study_ends_though_the_process_that_made_it_was_killed(workspace: Path, client) -> None:
    start()
    (experiment,) = [each for each in client.search_experiments() if each.name == "digits"]

    def whole():
        found = client.search_runs([experiment.experiment_id])
        return next(run.info for run in found if run.info.run_name == "all settings")

    client.update_run(whole().run_id, "RUNNING")  # as it is made
    start("g2-c2")
    assert whole().status == "FINISHED"


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
