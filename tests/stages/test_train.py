"""The train stage without Ray: what it refuses, writes, resumes and says. With Ray: tests/faults."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from training_example import AUGMENT, MODEL, TRAIN

from condensenet import training
from condensenet.models.storage import load_model
from condensenet.training import checkpoint, fingerprint
from condensenet.training.fingerprint import training_code
from tasks import paths, train, train_worker
from tasks.errors import UserError
from tasks.params import Params, Setting

HISTORY_COLUMNS = [
    "epoch",
    "condensing_stage",
    "learning_rate",
    "train_loss",
    "group_lasso",
    "train_error_pct",
    "validation_loss",
    "validation_error_pct",
    "kept_pct",
    "seconds",
]
METRICS = {
    "epochs",
    "train_loss",
    "train_error_pct",
    "validation_loss",
    "validation_error_pct",
    "validation_split",
    "seconds",
    "images_per_second",
    "num_workers",
}


def run(params: Params, setting: Setting) -> Path:
    train.train(params, setting, train.read_manifest(params, setting))
    return params.paths.setting("train", setting.name)


def in_progress() -> list[Path]:
    return [path.parent for path in Path("state/train").glob("*/*/*/fingerprint.json")]


def test_outputs(params, setting, ray, capsys):
    out = run(params, setting)
    assert {path.name for path in out.iterdir()} == {"model.pt", "run.json", "metrics.json", "history.csv"}
    with (out / paths.HISTORY).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == HISTORY_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    metrics = json.loads((out / paths.METRICS).read_text())
    assert set(metrics) == METRICS
    assert metrics["epochs"] == 4
    assert metrics["validation_split"] == "validation"
    assert metrics["train_loss"] == pytest.approx(float(rows[-1]["train_loss"]))
    assert load_model(out / paths.MODEL).is_condensed
    assert json.loads((out / paths.RUN).read_text())["setting"] == "g2-c4"
    assert "g2-c4: epoch 4 of 4, condensing stage 3 of 3, loss" in capsys.readouterr().out


def test_the_model_says_how_its_images_are_prepared(params, setting, ray):
    manifest = train.read_manifest(params, setting)
    assert load_model(run(params, setting) / paths.MODEL).preprocessing == manifest.preprocessing


def test_a_training_starts_from_the_model_that_its_setting_names(params, setting, ray):
    first = run(params, setting) / paths.MODEL
    Path("initial.pt").write_bytes(first.read_bytes())
    start, tuning = load_model("initial.pt"), replace(TRAIN, epochs=1, learning_rate=1e-6)
    tuned = load_model(run(params, replace(setting, initial="initial.pt", train=tuning)) / paths.MODEL)
    for ours, theirs in zip(tuned.learned_layers(), start.learned_layers(), strict=True):
        assert torch.equal(ours.group_mask, theirs.group_mask)
    torch.testing.assert_close(tuned.stem.weight, start.stem.weight, atol=1e-3, rtol=0)
    with pytest.raises(UserError, match=r"settings.g2-c4.initial: .*missing.pt cannot be read"):
        run(params, replace(setting, initial="missing.pt"))
    with pytest.raises(UserError, match=r"settings.g2-c4.initial: bottleneck=4 is not allowed: the network to start"):
        run(params, replace(setting, initial="initial.pt", model=replace(setting.model, bottleneck=4)))


def test_finished_training_leaves_nothing_and_trains_anew(params, setting, ray):
    out = run(params, setting)
    first, weights = json.loads((out / paths.RUN).read_text()), (out / paths.MODEL).read_bytes()
    assert not list(Path("state/train/stripes/g2-c4").iterdir())
    run(params, setting)
    assert json.loads((out / paths.RUN).read_text())["execution_id"] != first["execution_id"]
    assert (out / paths.MODEL).read_bytes() == weights


def test_lost_workers_leave_a_training_that_goes_on_under_its_identity(params, setting, ray, capsys):
    ray.fails = "a worker was lost"
    with pytest.raises(UserError, match=r"training g2-c4 failed: a worker was lost; run it again to resume"):
        run(params, setting)
    (folder,) = in_progress()
    identity = json.loads((folder / paths.RUN).read_text())
    ray.fails = None
    capsys.readouterr()
    out = run(params, setting)
    finished = json.loads((out / paths.RUN).read_text())
    assert finished.pop("environment") == checkpoint.environment(torch.device("cpu"))
    assert finished == identity
    said = capsys.readouterr().out
    assert "resumed after step 20" in said
    assert "g2-c4: epoch 4 of 4" not in said  # said before
    assert in_progress() == []


def test_interrupted_training_with_other_parameters_is_named_and_left_alone(params, setting, ray, capsys):
    ray.fails = "a worker was lost"
    with pytest.raises(UserError):
        run(params, setting)
    ray.fails = None
    other = replace(setting, train=replace(TRAIN, learning_rate=0.05))
    run(params, other)
    said = capsys.readouterr().out
    (folder,) = in_progress()
    assert (
        f"the interrupted training in {folder.resolve()} is not resumed: train.learning_rate was 0.1, is 0.05;" in said
    )
    assert "resumed after" not in said


def test_interrupted_training_of_other_code_is_named_and_left_alone(params, setting, ray, capsys, monkeypatch):
    ray.fails = "a worker was lost"
    with pytest.raises(UserError):
        run(params, setting)
    ray.fails = None
    changed = {**training_code(), "code.training/optimizer.py": "0123456789ab"}
    monkeypatch.setattr("condensenet.training.fingerprint.training_code", lambda: changed)
    run(params, setting)
    said = capsys.readouterr().out
    (folder,) = in_progress()
    assert f"the interrupted training in {folder.resolve()} is not resumed: code.training/optimizer.py was '" in said
    assert "', is '0123456789ab'; it goes on if that is undone" in said
    assert "resumed after" not in said


def test_what_another_process_takes_away_meanwhile_is_not_told_of(params, setting, ray, capsys):
    (Path("state/train/stripes/g2-c4/0123456789ab") / train.FINGERPRINT).mkdir(parents=True)  # cannot be read
    broken = Path("state/train/stripes/g2-c4/ab0123456789") / train.FINGERPRINT
    broken.parent.mkdir()
    broken.write_text("{")
    run(params, setting)
    assert "not resumed" not in capsys.readouterr().out


def test_training_that_cannot_be_recorded_is_not_lost(params, setting, ray, capsys):
    Path("state").mkdir()
    Path("state/tracking").write_text("in the way")
    with pytest.raises(UserError, match=r"^training g2-c4 cannot be recorded: .*tracking.*; run it again to do so$"):
        run(params, setting)
    assert "training g2-c4 continues, but cannot be recorded" in capsys.readouterr().out
    Path("state/tracking").unlink()
    assert (run(params, setting) / paths.RUN).exists()
    said = capsys.readouterr().out
    assert "resumed after step 20" in said
    assert "g2-c4: epoch 4 of 4" in said


def test_an_error_without_words_is_one_line(params, setting, ray, monkeypatch):
    def silent(_job, _rank):
        raise ValueError

    monkeypatch.setattr(train_worker, "_train", silent)
    with pytest.raises(UserError, match=r"^ValueError$"):
        run(params, setting)


def test_number_of_workers_and_checkpoints_do_not_begin_another_training(params, setting, ray):
    ray.fails = "a worker was lost"
    with pytest.raises(UserError):
        run(params, setting)
    ray.fails = None
    others = replace(params, ray=replace(params.ray, num_workers=2))
    run(others, replace(setting, train=replace(TRAIN, checkpoint_every_steps=1000)))
    assert in_progress() == []


def test_diverged_loss_is_one_line_and_not_tried_again(params, setting, ray):
    diverging = replace(setting, train=replace(TRAIN, learning_rate=1000.0))
    message = r"^the loss is not finite at step \d+ \(epoch \d\) with learning_rate=1000\.0$"
    with pytest.raises(UserError, match=message):
        run(params, diverging)
    (folder,) = in_progress()
    job = train_worker.Job(
        folder=folder, data=Path("none"), model=MODEL, train=TRAIN, augment=AUGMENT, threads=1, use_gpu=False
    )
    train_worker.run({"job": job})  # as Ray would start it again: nothing is done


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": replace(MODEL, num_classes=4)}, "settings.g2-c4: num_classes=4 is not allowed"),
        ({"model": replace(MODEL, in_channels=3)}, "settings.g2-c4: in_channels=3 is not allowed"),
        ({"train": replace(TRAIN, batch_size=44)}, "train.batch_size=44 is not allowed: there are 43 images to"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_work_starts(params, setting, change, message):
    with pytest.raises(UserError) as error:
        train.read_manifest(params, replace(setting, **change))
    assert str(error.value).startswith(message)


def test_missing_data_is_one_line(params, setting):
    (params.paths.data / paths.MANIFEST).unlink()
    with pytest.raises(UserError, match=r"out/stripes/data/manifest.json is missing: run dvc repro prepare"):
        train.read_manifest(params, setting)


def test_dvc_trains_anew_after_a_change_of_the_code_that_checkpoints_are_checked_against(checkout):
    dependencies = yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"]["train"]["do"]["deps"]
    library = [name.removeprefix("condensenet/") for name in dependencies if name.startswith("condensenet/")]
    assert library == list(fingerprint.SOURCES)


def test_threads_that_load_are_the_workers_own_and_train_nothing_again(params, setting, ray, checkout, monkeypatch):
    used, fit = [], training.fit

    def noting(*arguments, **options):
        used.append(options["loader_threads"])
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", noting)
    run(replace(params, ray=replace(params.ray, loader_threads=5)), setting)
    assert used == [5]
    keys = yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"]["train"]["do"]["params"]
    assert "ray.threads_per_worker" in keys
    assert not {"ray", "ray.loader_threads"} & set(keys)


def test_a_stage_ends_with_the_dvc_that_runs_it():
    import psutil

    stage = "import time; from tasks.train_stopping import Stopper; Stopper(); print(flush=True); time.sleep(60)"
    dvc = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stage!r}])"
    environment = {**os.environ, "DVC_STAGE": "train@g4-c4"}
    process = subprocess.Popen([sys.executable, "-c", dvc], env=environment, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    assert "stopped: run it again to resume from the last checkpoint" in process.communicate(timeout=30)[0]
    child.wait(30)


def test_worker_and_stage_start_lean():
    """Neither imports what costs seconds in every process and is not needed there."""
    code = "import sys, tasks.train, tasks.train_worker; print([m for m in {} if m in sys.modules])"
    heavy = ["torch", "torchvision", "mlflow", "prefect", "ray", "pandas"]
    shown = subprocess.run([sys.executable, "-c", code.format(heavy)], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
