"""A store that does not know a run gets it from the files that DVC tracks."""

from __future__ import annotations

from pathlib import Path

import pytest
from executions import PULLED, finish, history, runs_of, start, train, write, write_onnx

from tasks import paths, tracking
from tasks.tracking import metric_names, reconcile


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
