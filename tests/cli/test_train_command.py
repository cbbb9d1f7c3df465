"""The stranger's path in miniature: photographs in folders, to a prediction, without a configuration file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from photographs import write_photos

from condensenet import OnnxModel, load
from tasks import outputs

EPOCHS = 12


def condensenet(folder: Path, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    checkout = str(Path(__file__).resolve().parents[2])
    servers = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "CONDENSENET_RAY")
    environment = {key: value for key, value in os.environ.items() if key not in servers}
    done = subprocess.run(
        [sys.executable, "-m", "cli", *map(str, arguments)],
        cwd=folder,
        env={**environment, "PYTHONPATH": os.pathsep.join([checkout, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `condensenet train photos` has run."""
    folder = tmp_path_factory.mktemp("stranger")
    write_photos(folder / "photos")
    done = condensenet(folder, "train", "photos", "--epochs", EPOCHS, "--size", 16)
    assert "19 training images of 3 classes (blue, green, red), used at 16x16 pixels" in done.stdout
    assert "condensenet predict runs/photos/model.onnx IMAGE..." in done.stdout
    return folder


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


def test_a_model_is_fine_tuned_on_other_classes(workspace: Path) -> None:
    (workspace / "two").mkdir()
    for name in ("blue", "red"):
        (workspace / "two" / name).symlink_to(workspace / "photos" / name)
    start = ("--from", "runs/photos/model.pt", "--epochs", 2, "--size", 16)
    done = condensenet(workspace, "train", "two", *start)
    assert "epoch 2 of 2, condensing stage 3 of 3" in done.stdout
    tuned, original = load(workspace / "runs/two"), load(workspace / "runs/photos")
    assert tuned.num_classes == 2
    masks = zip(tuned.learned_layers(), original.learned_layers(), strict=True)
    assert all(torch.equal(ours.group_mask, theirs.group_mask) for ours, theirs in masks)
    assert not torch.equal(tuned.stem.weight, original.stem.weight)
