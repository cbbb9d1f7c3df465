"""What reaches MLflow, on a real SQLite store."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import headline, params, paths, tracking
from tasks.tracking import delivery, outbox, restoring, server

AWAY = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store; making one takes seconds, so the tests copy it."""
    from tasks.tracking.store import Store

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store.open(f"sqlite:///{file}")
    return file


@pytest.fixture
def workspace(tmp_path: Path, fresh_store: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    shutil.copy(checkout / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(delivery, "_Process", type("_Process", (delivery._Process,), {}))
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
    in_force = params.load()
    return tracking.start_execution(in_force, in_force.setting(name))


def runs_of(client, study: str = "digits") -> list:
    experiment = client.get_experiment_by_name(study)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def history(client, run_id: str, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, metric))


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def write_onnx(file: Path) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return file


def test_an_execution_becomes_one_run_of_the_studys_experiment(workspace: Path, client) -> None:
    run = start("g4-c2")
    tracking.record(run, "train", metrics={"train_loss": 1.0}, step=1)
    tracking.record(run, "train", metrics={"train_loss": 0.5}, step=2, finished=True)

    (found,) = runs_of(client)
    assert found.info.run_id == run["mlflow_run_id"]
    assert (found.info.run_name, found.info.status) == ("g4-c2", "FINISHED")
    assert (found.data.params["G"], found.data.params["C"]) == ("4", "2")
    assert found.data.params["model.block_depths"] == "2-2-2"
    assert found.data.params["model.reduction"] == "null"
    assert found.data.params["train.learning_rate"] == str(params.load().setting("g4-c2").train.learning_rate)
    assert found.data.params["data.augment.pad"] == "1"
    assert history(client, found.info.run_id, "train_loss") == [(1, 1.0), (2, 0.5)]
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "a" * 12)
    assert json.loads(used.dataset.profile)["fingerprint"] == "a" * 64
    assert "MLFLOW_TRACKING_URI" not in os.environ  # MLflow sets it for the processes that this one starts
    assert outbox.pending() == []
    (line,) = delivery.links("http://127.0.0.1:5000/")
    assert line.startswith(f"digits: http://127.0.0.1:5000/#/experiments/{found.info.experiment_id}/runs?viewState")


def test_a_resumed_training_is_running_again_and_a_failed_one_failed(workspace: Path, client) -> None:
    run = start()
    tracking.record(run, "train", failed=True)
    assert client.get_run(run["mlflow_run_id"]).info.status == "FAILED"
    tracking.record(run, "train", metrics={"train_loss": 1.0}, step=1)
    assert client.get_run(run["mlflow_run_id"]).info.status == "RUNNING"


def test_later_stages_do_not_make_a_training_longer(workspace: Path, client) -> None:
    run = start()
    tracking.record(run, "train", finished=True)
    ended = client.get_run(run["mlflow_run_id"]).info.end_time
    tracking.record(run, "evaluate", metrics={"test_error_pct": 2.0})
    tracking.record(run, "report", metrics={"test_error_pct": 2.0}, finished=True)
    assert history(client, run["mlflow_run_id"], "test_error_pct") == [(0, 2.0)]  # the same figure is no new point
    assert client.get_run(run["mlflow_run_id"]).info.end_time == ended
    assert client.get_run(run["mlflow_run_id"]).info.status == "FINISHED"


def test_a_delivery_killed_before_its_record_was_removed_repeats_without_a_trace(
    workspace: Path,
    client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = start()
    model, notes = write_onnx(workspace / "model.onnx"), write(workspace / "notes.txt", "first")
    with monkeypatch.context() as killed:
        killed.setattr(outbox, "remove", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tracking.record(
                run, "export", metrics={"macs": 7.0}, params={"extra": 1}, artifacts=[(notes, "a")], onnx_model=model
            )
    assert len(outbox.pending()) == 1
    assert tracking.deliver() == 1

    run_id = run["mlflow_run_id"]
    assert len(runs_of(client)) == 1
    assert history(client, run_id, "macs") == [(0, 7.0)]
    assert client.get_run(run_id).data.params["extra"] == "1"
    assert [file.path for file in client.list_artifacts(run_id, "a")] == ["a/notes.txt"]
    assert len(client.search_logged_models([client.get_run(run_id).info.experiment_id])) == 1


def test_a_parameter_with_another_value_is_no_error(workspace: Path, client) -> None:
    run = start()
    tracking.record(run, "benchmark", params={"benchmark.runs": 50})
    tracking.record(run, "benchmark", params={"benchmark.runs": 60}, metrics={"latency_ms": 1.0})
    data = client.get_run(run["mlflow_run_id"]).data
    assert (data.params["benchmark.runs"], data.tags["changed.benchmark.runs"]) == ("50", "60")
    assert data.metrics["latency_ms"] == 1.0


def test_the_onnx_model_carries_the_last_epoch_and_the_final_figures(workspace: Path, client) -> None:
    run = start("g2-c2")
    for epoch in (1, 2):
        tracking.record(run, "train", metrics={"train_loss": 1 / epoch}, step=epoch)
    tracking.record(run, "convert", metrics={"macs": 5.0})
    tracking.record(run, "export", onnx_model=write_onnx(workspace / "model.onnx"))
    tracking.record(run, "evaluate", metrics={"test_error_pct": 2.5})

    found = client.get_run(run["mlflow_run_id"])
    (model,) = client.search_logged_models([found.info.experiment_id])
    assert {metric.key: metric.value for metric in model.metrics} == {
        "train_loss": 0.5,
        "macs": 5.0,
        "test_error_pct": 2.5,
    }
    assert (model.name, model.source_run_id, model.params) == ("g2-c2", found.info.run_id, {"G": "2", "C": "2"})
    described = Path(model.artifact_location.removeprefix("file://"), "MLmodel").read_text()
    assert "signature:" in described
    assert "saved_input_example_info" in described
    assert found.data.metrics["test_error_pct"] == 2.5


def test_with_the_store_away_work_goes_on_and_one_line_says_so(
    workspace: Path,
    client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    notes = write(workspace / "notes.txt", "as it was")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    run = start()
    assert run["mlflow_run_id"] is None
    tracking.record(run, "train", metrics={"train_loss": 1.0}, step=1)
    tracking.record(run, "train", metrics={"train_loss": 0.5}, step=2, artifacts=[(notes, "")])
    notes.write_text("as a later run of the stage left it")
    (line,) = capsys.readouterr().out.splitlines()
    assert AWAY in line
    assert "python -m tasks.track" in line
    with pytest.raises(Exception, match="3 records") as error:
        delivery.deliver_everything()
    assert "\n" not in str(error.value)

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert delivery.deliver_everything().startswith("3 records delivered")
    (found,) = runs_of(client)
    assert "restored_from" not in found.data.tags
    assert history(client, found.info.run_id, "train_loss") == [(1, 1.0), (2, 0.5)]
    kept = client.download_artifacts(found.info.run_id, "notes.txt", str(workspace))
    assert Path(kept).read_text() == "as it was"


def outputs_of(run: dict) -> None:
    """The files that DVC would have restored for an execution with two epochs."""
    folders = paths.StudyPaths("digits")
    write(folders.setting("train", "g4-c2") / paths.RUN, run)
    with open(folders.setting("train", "g4-c2") / paths.HISTORY, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["epoch", "condensing_stage", "train_loss", "seconds"], [1, 0, 1.0, 2.0], [2, 1, 0.5, 2.0]])
    write(folders.setting("convert", "g4-c2") / paths.COST, {"grouped": {"macs": 9, "paper_flops": 10, "params": 3}})
    error = {"top1_error_pct": 2.5, "top5_error_pct": 0.1}
    int8 = {"top1_error_pct": 3.5}
    write(folders.setting("evaluate", "g4-c2") / paths.METRICS, {"pytorch": error, "onnxruntime": error, "int8": int8})
    write(folders.setting("export", "g4-c2") / paths.EXPORT, {"file_bytes": 7, "max_relative_difference": 1e-7})
    timed = [("lowered", 1, 1, 0.25, 0.5), ("plain", 1, 1, 0.75, 1.5), ("plain", 16, 2, 4.0, 2.0)]
    names = ("form", "batch", "threads", "median_ms", "ratio")
    rows = [dict(zip(names, row, strict=True)) for row in timed]
    write(folders.setting("benchmark", "g4-c2") / paths.LATENCY, {"rows": rows})


def test_a_run_that_the_store_does_not_know_is_filled_from_the_tracked_files(workspace: Path, client) -> None:
    run = {
        "execution_id": "e" * 32,
        "mlflow_run_id": "f" * 32,
        "study": "digits",
        "setting": "g4-c2",
        "started_at": "2026-01-02T03:04:05.000+00:00",
        "git_commit": "c" * 40,
        "params": {"G": "4", "C": "2"},
    }
    outputs_of(run)
    tracking.record(run, "benchmark", metrics={"latency_ms": 0.5})
    (found,) = runs_of(client)
    assert found.data.tags["restored_from"] == "f" * 32
    assert found.info.start_time == 1767323045000
    assert found.data.params == {"G": "4", "C": "2"}
    assert history(client, found.info.run_id, "condensing_stage") == [(1, 0.0), (2, 1.0)]
    wanted = {"macs": 9.0, "paper_flops": 10.0, "params": 3.0, "test_error_pct": 2.5, "file_bytes": 7.0}
    wanted |= {"latency_ms": 0.5, "latency_ratio": 0.5, "test_error_pct_int8": 3.5}  # 0.5: what was recorded last
    wanted |= {"latency_ms_plain": 0.75, "latency_ratio_plain": 1.5, "latency_ms_plain_b16_t2": 4.0}
    assert wanted.items() <= found.data.metrics.items()
    assert restoring.restore_everything().endswith("nothing, all are known")


def test_a_latency_of_before_forms_were_named_is_of_the_exported_file() -> None:
    row = {"batch": 1, "threads": 1, "median_ms": 0.25, "ratio": 0.5}
    assert headline.latency_metrics({"rows": [row]}) == {"latency_ms": 0.25, "latency_ratio": 0.5}
    named = {"rows": [{**row, "form": "lowered"}, {**row, "form": "native", "median_ms": 0.125}]}
    assert headline.latency_metrics(named) == {
        "latency_ms": 0.25,
        "latency_ratio": 0.5,
        "latency_ms_native": 0.125,
        "latency_ratio_native": 0.5,
    }


def test_restoring_makes_the_runs_of_all_outputs_once(workspace: Path, client) -> None:
    run = start()
    experiment = client.get_experiment_by_name("digits")
    client.delete_run(run["mlflow_run_id"])
    outputs_of(run)
    assert restoring.restore_everything().endswith("digits/g4-c2")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags["restored_from"] == run["mlflow_run_id"]
    assert found.info.status == "FINISHED"
    assert len(found.inputs.dataset_inputs) == 1


def test_restoring_that_was_killed_half_way_is_finished_later(
    workspace: Path, client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.tracking.store import Store

    run = start()
    client.delete_run(run["mlflow_run_id"])
    outputs_of(run)
    with monkeypatch.context() as killed:
        killed.setattr(Store, "_log_points", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            restoring.restore_everything()
    assert restoring.restore_everything().endswith("digits/g4-c2")
    (found,) = runs_of(client)
    assert found.data.tags["restored_from"] == run["mlflow_run_id"]
    assert history(client, found.info.run_id, "train_loss") == [(1, 1.0), (2, 0.5)]


def test_a_record_that_the_store_refuses_is_kept_and_holds_up_no_other(
    workspace: Path,
    client,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = start()
    tracking.record(run, "train", metrics={"no?such:name": 1.0}, step=1)
    tracking.record(run, "train", metrics={"train_loss": 1.0}, step=1)
    (line,) = capsys.readouterr().out.splitlines()
    assert "refused" in line
    assert list(outbox.root().glob(f"{outbox.REFUSED}/*/*/{outbox.RECORD}"))
    assert history(client, run["mlflow_run_id"], "train_loss") == [(1, 1.0)]


def test_a_run_deleted_meanwhile_is_made_again(workspace: Path, client) -> None:
    run = start()
    client.delete_run(run["mlflow_run_id"])
    tracking.record(run, "evaluate", metrics={"test_error_pct": 2.0})
    (found,) = runs_of(client)
    assert found.info.run_id != run["mlflow_run_id"]
    assert found.data.metrics["test_error_pct"] == 2.0


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
    assert tracking.dvc_tags("g4-c2", lock) == {"dvc.prepare.data": "11.dir", "dvc.train.model.pt": "22"}
    assert tracking.dvc_tags("g4-c2", tmp_path / "absent") == {}
    for end in range(0, len(lock.read_text()), 7):
        tracking.dvc_tags("g4-c2", write(tmp_path / "half", lock.read_text()[:end]))  # no exception


def test_the_default_store_is_the_checkouts_also_in_a_temporary_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / ".dvc" / "tmp" / "exps" / "x"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert server.uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    assert server.uri() == f"sqlite:///{tmp_path}/mine.db"
    assert server.shown("https://me:secret@host:5000/x") == "https://***@host:5000/x"


WRITER = """
import sys
from tasks import params, tracking
in_force = params.load()
run = tracking.start_execution(in_force, in_force.setting(sys.argv[1]))
for epoch in range(1, 6):
    tracking.record(run, "train", metrics={"train_loss": 1 / epoch}, step=epoch)
tracking.record(run, "train", finished=True)
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
    assert outbox.pending() == []
    client = mlflow.MlflowClient(server.uri())
    assert sorted(run.info.run_name for run in runs_of(client)) == sorted(settings)
    for run in runs_of(client):
        assert run.info.status == "FINISHED"
        assert len(history(client, run.info.run_id, "train_loss")) == 5


def test_a_courier_delivers_what_stages_leave_to_it_and_is_gone_in_the_end(workspace: Path, client) -> None:
    said: list[str] = []
    with tracking.courier(said.append):
        wait_until_attended()
        run = start()
        tracking.record(run, "train", metrics={"train_loss": 1.0}, step=1)
        assert delivery._Process.store is None  # this process did not need MLflow
    assert not outbox.attended()
    (found,) = runs_of(client)
    assert found.info.run_id == run["mlflow_run_id"]
    assert found.data.metrics == {"train_loss": 1.0}
    assert said == []


def wait_until_attended() -> None:
    import time

    deadline = time.monotonic() + 60
    while not outbox.attended():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
