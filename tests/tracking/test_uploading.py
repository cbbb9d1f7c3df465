"""Snapshots reach the store once: whoever uploads, is killed or finds it away."""

from __future__ import annotations

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

import pytest
from executions import (
    AWAY,
    PULLED,
    environment,
    evaluate,
    export,
    finish,
    history,
    runs_of,
    start,
    train,
    training,
    write,
)

from tasks import paths, tracking
from tasks.errors import UserError
from tasks.tracking import address, reconcile, snapshots


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
