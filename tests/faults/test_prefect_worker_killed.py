"""The Prefect worker is killed in the midst of a training that it runs: another run of the deployment finishes it."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch
from processes import command_line
from ruamel.yaml import YAML
from workspaces import Workspace, copy_checkout, end_group, wait_until

PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
SETTING = "g4-c4"
RUN = (*PREFECT, "deployment", "run", "reproduce/local", "--param", f'settings=["{SETTING}"]')
CHANGES = {
    "model": {"block_depths": [1, 1], "growth_rates": [8, 16]},
    "train": {"epochs": 60, "batch_size": 360, "checkpoint_every_steps": 3},
    "ray": {"num_workers": 1},
}
STEPS = 60 * 4  # 1437 images
UNDISTURBED = f"""
import torch
from condensenet import CondenseNet
from condensenet.data import PreparedData
from condensenet.training import fit
from tasks import params

params_in_use = params.load()
setting = params_in_use.settings["{SETTING}"]
torch.set_num_threads(params_in_use.ray.threads_per_worker)
torch.manual_seed(setting.train.seed)
model = CondenseNet(setting.model)
list(fit(model, PreparedData(params_in_use.paths.data), params_in_use.data.augment, setting.train))
torch.save(model.state_dict(), "undisturbed.pt")
"""


@pytest.fixture
def deployed(checkout: Path, prefect_server: dict[str, str], tmp_path: Path) -> Workspace:
    """A checkout whose pipeline ends with the training of small networks by one process, registered with the server."""
    made = copy_checkout(checkout, tmp_path / "checkout").with_variables(**prefect_server)
    pipeline, study = made.read("dvc.yaml"), made.read("params.yaml")
    assert isinstance(pipeline, dict)
    assert isinstance(study, dict)
    study["settings"] = {name: study["settings"][name] for name in ("g2-c2", SETTING)}
    for section, values in CHANGES.items():
        study[section].update(values)
    YAML().dump({"stages": {name: pipeline["stages"][name] for name in ("prepare", "train")}}, made.path / "dvc.yaml")
    YAML().dump(study, made.path / "params.yaml")
    made.commit("Keep the training alone")
    made.run(*PREFECT, "work-pool", "create", "condensenet", "--type", "process", "--overwrite")
    made.run(*PREFECT, "deploy", "--all")
    return made


def test_another_worker_finishes_with_the_same_bits(deployed: Workspace) -> None:
    worker = deployed.start(*PREFECT, "worker", "start", "--pool", "condensenet")
    deployed.run(*RUN)
    wait_until(lambda: newest_step(deployed) > 0, 180)
    stage = next(child for child in psutil.Process(worker.pid).children(recursive=True) if is_stage(child))
    worker.kill()
    worker.communicate()
    stage.wait(20)  # it saves and ends, though nobody is left to hear of it
    assert 0 < newest_step(deployed) < STEPS

    worker = deployed.start(*PREFECT, "worker", "start", "--pool", "condensenet")
    try:
        done = deployed.run(*RUN, "--watch", "--watch-timeout", "240", check=False)
    finally:
        end_group(worker)
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights(deployed) == undisturbed(deployed)


def is_stage(process: psutil.Process) -> bool:
    return command_line(process)[1:] == ["-m", "tasks.train", SETTING]


def newest_step(workspace: Workspace) -> int:
    checkpoints = workspace.path.glob(f"state/train/digits/{SETTING}/*/checkpoints/checkpoint-*.pt")
    return max((int(path.name.split("-")[1]) for path in checkpoints), default=0)


def weights(workspace: Workspace) -> dict[str, bytes]:
    content = torch.load(workspace.path / f"out/digits/train/{SETTING}/model.pt", weights_only=True)
    return {name: value.numpy().tobytes() for name, value in content["state_dict"].items()}


def undisturbed(workspace: Workspace) -> dict[str, bytes]:
    """The weights of the same training by one process that nobody kills, with the code of the same checkout."""
    workspace.run(sys.executable, "-c", UNDISTURBED)
    return {name: value.numpy().tobytes() for name, value in torch.load(workspace.path / "undisturbed.pt").items()}
