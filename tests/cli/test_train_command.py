"""The stranger's path in miniature: photographs in folders, to a prediction, without a configuration file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from tutorial import EPOCHS, Tutorial, condensenet

from cli import reporting, training
from condensenet import OnnxModel, load, predict
from tasks import outputs
from tasks.errors import UserError


@pytest.fixture(scope="module")
def workspace(tutorial: Tutorial) -> Path:
    """The folder in which `condensenet train photos` has run."""
    return tutorial.folder


def test_training_says_what_it_found_and_what_to_do_next(tutorial: Tutorial) -> None:
    output = tutorial.outputs["condensenet train photos"]
    assert "19 training images of 3 classes (blue, green, red), used at 16x16 pixels" in output
    assert "condensenet predict runs/photos/model.onnx IMAGE..." in output
    assert "PyTorch and ONNX Runtime disagree on 0" in output
    assert "top-5" not in output  # of three classes


def test_a_board_without_torch_predicts_the_same(tutorial: Tutorial) -> None:
    (line,) = tutorial.outputs["python board/board_predict.py board/model.onnx photos/red/0.jpg"].splitlines()
    name, probability = line.split()[-2:]
    (best,) = predict(load(tutorial.folder / "runs/photos/model.onnx"), [tutorial.folder / "photos/red/0.jpg"], top=1)[
        0
    ]
    assert name == best.name
    assert float(probability.rstrip("%")) == pytest.approx(100 * best.probability, abs=2)  # other resizing, by Pillow
    assert "torch" not in (tutorial.folder / "docs/board_predict.py").read_text()


def test_a_larger_c_costs_less(tutorial: Tutorial) -> None:
    first, second = (
        next(int(line.split()[1].replace(",", "")) for line in tutorial.outputs[command].splitlines() if "MACs" in line)
        for command in ("condensenet cost runs/photos/model.pt", "condensenet cost runs/photos-c8/model.pt")
    )
    assert second < first


def test_predictions_carry_the_folders_names(workspace: Path) -> None:
    pictures = sorted((workspace / "photos").glob("*/[0-3].*"))
    done = condensenet(workspace, "predict", "runs/photos/model.onnx", *pictures, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    right = sum(Path(row["image"]).parent.name == row["predictions"][0]["name"] for row in rows)
    assert right >= 8  # of 12 pictures that differ in colour; 4 by chance


def test_files_are_of_one_network_and_say_how_images_are_prepared(workspace: Path) -> None:
    model, exported = load(workspace / "runs/photos"), load(workspace / "runs/photos/model.onnx")
    assert isinstance(exported, OnnxModel)
    assert model.preprocessing == exported.preprocessing
    assert model.preprocessing.classes == ("blue", "green", "red")
    assert model.form == "training"
    assert model.is_condensed
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(exported(x), model(x), atol=1e-4, rtol=1e-4)
    metrics = outputs.read_json(workspace / "runs/photos/out/photos/evaluate/g4-c4/metrics.json")
    assert metrics["images"] == 5
    history = outputs.read_history(workspace / "runs/photos/out/photos/train/g4-c4/history.csv")
    assert len(history) == EPOCHS


def test_the_report_of_a_training_is_complete_and_its_model_registered(tutorial: Tutorial) -> None:
    """And the experiment's note in MLflow says how to get there."""
    output = tutorial.outputs["condensenet report runs/photos"]
    assert "runs/photos/report.html is complete" in output
    assert "dvc" not in output
    page = (tutorial.folder / "runs/photos/report.html").read_text(encoding="utf-8")
    assert ">not run<" not in page
    assert "MobileNetV1" in page
    client = MlflowClient(f"sqlite:///{tutorial.folder / 'runs/photos/mlflow.db'}")
    (model,) = client.search_registered_models()
    assert (model.name, set(model.aliases)) == ("condensenet-photos", {"best-error", "fastest", "smallest"})
    (experiment,) = client.search_experiments(filter_string="name = 'photos'")
    assert "`condensenet report WORKSPACE`" in experiment.tags["mlflow.note.content"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys(("all settings", "g4-c4"), "FINISHED")


def test_a_training_that_has_not_finished_has_no_report(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(training.HEADER)
    with pytest.raises(UserError, match="has not finished: run its `condensenet train` again") as error:
        reporting.run(tmp_path)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"params.yaml", training.IN_USE}


def test_the_same_command_again_trains_nothing_and_another_refuses(workspace: Path) -> None:
    model = (workspace / "runs/photos/model.pt").read_bytes()
    done = condensenet(workspace, "train", "photos", "--epochs", EPOCHS, "--size", 16)
    assert "trained already" in done.stdout
    assert "epoch 1 of" not in done.stdout
    refused = condensenet(workspace, "train", "photos", "--epochs", 7, "--size", 16, check=False)
    assert refused.returncode == 1
    assert "holds a model that was trained otherwise" in refused.stderr
    photo = workspace / "photos/red/0.jpg"
    before = photo.read_bytes()
    try:
        photo.write_bytes((workspace / "photos/green/0.jpg").read_bytes())
        refused = condensenet(workspace, "train", "photos", "--epochs", EPOCHS, "--size", 16, check=False)
    finally:
        photo.write_bytes(before)
    assert refused.returncode == 1
    assert "was trained on other images: some were changed since" in refused.stderr
    assert (workspace / "runs/photos/model.pt").read_bytes() == model


def test_a_model_is_fine_tuned_on_other_classes(tutorial: Tutorial) -> None:
    assert (
        "epoch 2 of 2, condensing stage 3 of 3"
        in tutorial.outputs["condensenet train more --from runs/photos/model.pt"]
    )
    tuned, original = load(tutorial.folder / "runs/more"), load(tutorial.folder / "runs/photos")
    assert tuned.num_classes == 2
    masks = zip(tuned.learned_layers(), original.learned_layers(), strict=True)
    assert all(torch.equal(ours.group_mask, theirs.group_mask) for ours, theirs in masks)
    assert not torch.equal(tuned.stem.weight, original.stem.weight)
