"""The convert stage: what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from condensenet import CondenseNet, count_cost
from condensenet.models.storage import load_model, save_model
from tasks import convert as stage
from tasks import params as parameters
from tasks import paths
from tasks.errors import UserError
from tasks.tracking import snapshots

RUN = {"execution_id": "0" * 32, "mlflow_run_id": None, "study": "digits", "setting": "g4-c2"}


@pytest.fixture
def workspace(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is an empty one with ``params.yaml``; snapshots for MLflow stay there."""
    shutil.copy(checkout / paths.PARAMS, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage.tracking, "upload", lambda: None)


def _trained(setting: str, condensing_stage: int) -> CondenseNet:
    params = parameters.load()
    folder = params.paths.setting("train", setting)
    torch.manual_seed(0)
    model = CondenseNet(params.setting(setting).model)
    model.condense_to(condensing_stage)
    save_model(model, folder / paths.MODEL)
    (folder / paths.RUN).write_text(json.dumps(RUN))
    return model.eval()


def _run(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["convert", setting])
    stage.main()


def test_the_grouped_form_its_cost_and_its_kept_inputs_are_written(workspace, monkeypatch):
    model = _trained("g4-c2", 1)
    _run("g4-c2", monkeypatch)
    folder = Path("out/digits/convert/g4-c2")
    grouped, images = load_model(folder / paths.MODEL), torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(grouped(images), model(images), rtol=1e-5, atol=1e-6)
    cost = json.loads((folder / paths.COST).read_text())
    for form, network in (("training", model), ("grouped", grouped)):
        assert cost[form] == vars(count_cost(network, 8))
    assert 0 <= cost["max_relative_difference"] <= stage.TOLERANCE
    layers = json.loads((folder / paths.KEPT).read_text())["layers"]
    assert [layer["name"] for layer in layers][:3] == ["block 1, layer 1", "block 1, layer 2", "block 2, layer 1"]
    for layer in layers:
        assert len(layer["kept"]) == layer["groups"] == 4
        assert all(len(group) == layer["in_channels"] // 2 for group in layer["kept"])
    first = next(iter(model.learned_layers()))
    assert layers[0]["kept"] == [row.nonzero()[:, 0].tolist() for row in first.group_mask]
    (left,) = snapshots.completed()
    snapshot = snapshots.read(left)
    assert (snapshot.run, snapshot.stage, snapshot.metrics) == (RUN, "convert", cost["grouped"])
    assert json.loads((left / snapshots.ARTIFACTS / "convert" / paths.KEPT).read_text())["layers"] == layers


def test_the_same_model_gives_the_same_files(workspace, monkeypatch):
    _trained("g4-c2", 1)
    folder = Path("out/digits/convert/g4-c2")
    _run("g4-c2", monkeypatch)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    _run("g4-c2", monkeypatch)
    assert first == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_dense_setting_is_converted_too(workspace, monkeypatch):
    _trained("g1-c1", 0)
    _run("g1-c1", monkeypatch)
    cost = json.loads(Path("out/digits/convert/g1-c1/cost.json").read_text())
    assert cost["grouped"] == cost["training"]


def test_a_model_not_fully_condensed_stops_the_stage_and_writes_nothing(workspace, monkeypatch):
    _trained("g4-c4", 2)
    with pytest.raises(UserError, match="g4-c4: the model is at condensing stage 2 of 3"):
        _run("g4-c4", monkeypatch)
    assert not Path("out/digits/convert").exists()
    assert snapshots.completed() == []


def test_a_grouped_form_that_differs_stops_the_stage_and_writes_nothing(workspace, monkeypatch):
    _trained("g4-c2", 1)
    monkeypatch.setattr(stage, "relative_difference", lambda *_: 2e-5)
    with pytest.raises(UserError, match="g4-c2: the grouped form differs by 2e-05; at most 1e-05 is allowed"):
        _run("g4-c2", monkeypatch)
    assert not Path("out/digits/convert").exists()


def test_a_missing_or_broken_model_is_one_line(workspace, monkeypatch):
    with pytest.raises(UserError, match=r"train/g4-c2/run.json is missing: run dvc repro train@g4-c2"):
        _run("g4-c2", monkeypatch)
    _trained("g4-c2", 1)
    Path("out/digits/train/g4-c2/model.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not a file of plain tensors"):
        _run("g4-c2", monkeypatch)
    with pytest.raises(UserError, match=r"setting 'g3' is not in params.yaml"):
        _run("g3", monkeypatch)
