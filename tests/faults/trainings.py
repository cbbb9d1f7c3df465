"""Trainings by the stage ``train`` in a folder of their own, and one that nobody disturbs to compare them with."""

from __future__ import annotations

import csv
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from training_example import write_stripes

from tasks import train_worker
from tasks.params import parse

SETTING = "g2-c4"
TIMEOUT_S = 300
EPOCHS = 100  # of five steps: some ten seconds, for the workers of a killed stage train on for a moment
PARAMS: dict[str, Any] = {
    "study": "stripes",
    "data": {"source": "digits", "image_size": 8, "channels": 1, "augment": {"crop": "pad", "pad": 1}},
    "model": {
        "block_depths": [2, 1],
        "growth_rates": [4, 8],
        "groups_1x1": 2,
        "groups_3x3": 2,
        "condensation_factor": 4,
        "bottleneck": 2,
        "num_classes": 3,
        "in_channels": 1,
        "dropout": 0.1,
    },
    "train": {"epochs": EPOCHS, "batch_size": 8, "group_lasso_weight": 1.0e-4, "checkpoint_every_steps": 7},
    "ray": {"num_workers": 2, "max_failures": 2},
    "export": {},
    "evaluate": {},
    "benchmark": {},
    "settings": {SETTING: {}},
}


def with_epochs(epochs: int) -> dict[str, Any]:
    return {**PARAMS, "train": {**PARAMS["train"], "epochs": epochs}}


class Stage(subprocess.Popen):
    """A process of its own session, whose output can be read while it runs."""

    def __init__(self, command: list[str], **options: Any) -> None:
        pipe = subprocess.PIPE
        super().__init__(command, text=True, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True, **options)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.stdout:
            self._lines.append(line)

    @property
    def said(self) -> str:
        return "".join(self._lines)

    def end(self) -> str:
        """What it said, once it and all that write where it does have ended."""
        self.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        assert not self._reader.is_alive(), self.said
        return self.said


class Checkout:
    """A folder in which the stage runs as it does in a checkout."""

    def __init__(self, root: Path, code: Path, tracking_uri: str, epochs: int = EPOCHS, **ray: Any) -> None:
        self.root = root
        root.mkdir()
        params = with_epochs(epochs)
        (root / "params.yaml").write_text(yaml.safe_dump({**params, "ray": {**params["ray"], **ray}}))
        write_stripes(root / "out/stripes/data")
        self.out = root / "out/stripes/train" / SETTING
        self.env = {
            **os.environ,
            "PYTHONPATH": str(code),
            "MLFLOW_TRACKING_URI": tracking_uri,
        }
        for name in ("RAY_ADDRESS", "CONDENSENET_RAY"):
            self.env.pop(name, None)

    def start(self, *prefix: str) -> Stage:
        command = [*prefix, sys.executable, "-m", "tasks.train", SETTING]
        return Stage(command, cwd=self.root, env=self.env)

    @property
    def state(self) -> Path | None:
        """The folder of the training in progress."""
        found = list((self.root / "state/train/stripes" / SETTING).glob("*/run.json"))
        return found[0].parent if found else None

    @property
    def epochs_done(self) -> int:
        path = self.state / "history.csv" if self.state else None
        return len(path.read_text().splitlines()) - 1 if path and path.exists() else 0

    @property
    def newest_step(self) -> int:
        folder = self.state / "checkpoints" if self.state else None
        return max((int(path.name.split("-")[1]) for path in folder.glob("*.pt")), default=0) if folder else 0


def weights(folder: Path) -> dict[str, bytes]:
    content = torch.load(folder / "model.pt", weights_only=True)
    assert content["condensing_stage"] == 3
    return {name: value.numpy().tobytes() for name, value in content["state_dict"].items()}


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def wait_for(condition: Callable[[], object], process: Stage) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, f"ended too early:\n{process.end()}"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def descendants(process: Stage) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process], timeout_s: float = 30) -> None:
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    assert alive == []


def is_agent(process: psutil.Process) -> bool:
    """Ray's two agents wait a minute for the server of a cluster that was killed, and then end."""
    with suppress(psutil.NoSuchProcess):
        return "Agent" in process.name()
    return False


def finish(process: Stage, status: int = 0) -> str:
    """What the process said, once it has ended with ``status``."""
    output = process.end()
    assert process.returncode == status, output
    assert "Traceback" not in output
    return output


def _rank(rank: int, job: train_worker.Job) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    meeting = f"file://{job.folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    train_worker._train(job, rank)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> Path:
    return train_undisturbed(tmp_path_factory.mktemp("uninterrupted"))


def train_undisturbed(folder: Path, epochs: int = EPOCHS) -> Path:
    """Train by two processes without Ray, which nobody disturbs, in ``folder``."""
    data = write_stripes(folder / "data").root
    setting = parse(with_epochs(epochs)).setting(SETTING)
    augment = parse(PARAMS).data.augment
    job = train_worker.Job(
        folder=folder, data=data, model=setting.model, train=setting.train, augment=augment, threads=1, use_gpu=False
    )
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, job), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(TIMEOUT_S)
        assert process.exitcode == 0
    return folder
