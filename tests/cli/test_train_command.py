"""The stranger's path in miniature: photographs in folders, to a prediction, without a configuration file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tutorial import EPOCHS, Tutorial, condensenet

from condensenet import OnnxModel, load, predict
from tasks import outputs


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
