"""The train stage, killed for real: the rerun ends with the weights of an uninterrupted run, to the bit."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from tracking_server import Server
from training_example import write_stripes

from condensenet.training import checkpoint_files
from tasks import train_worker
from tasks.params import parse

SETTING = "g2-c4"
TIMEOUT_S = 300
EPOCHS = 100  # of five steps: some ten seconds, for the workers of a killed stage train on for a moment
PARAMS = {
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


class Checkout:
    """A folder in which the stage runs as it does in a checkout."""

    def __init__(self, root: Path, code: Path, tracking_uri: str) -> None:
        self.root = root
        root.mkdir()
        (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
        write_stripes(root / "out/stripes/data")
        self.out = root / "out/stripes/train" / SETTING
        self.env = {
            **os.environ,
            "PYTHONPATH": str(code),
            "MLFLOW_TRACKING_URI": tracking_uri,
        }
        self.env.pop("RAY_ADDRESS", None)

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "tasks.train", SETTING]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def state(self) -> Path | None:
        """The folder of the training in progress."""
        found = list((self.root / "state/train/stripes" / SETTING).glob("*/fingerprint.json"))
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


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, f"ended too early:\n{process.communicate()[0]}"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process], timeout_s: float = 30) -> None:
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    assert alive == []


def is_agent(process: psutil.Process) -> bool:
    """Ray's two agents wait a minute for the server of a cluster that was killed, and then end."""
    with suppress(psutil.NoSuchProcess):
        return "Agent" in process.name()
    return False


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """What the process said, once it has ended with ``status``."""
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == status, output
    assert "Traceback" not in output
    return output


def _rank(rank: int, job: train_worker.Job) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    meeting = f"file://{job.folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    train_worker._train(job, rank)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The folder of a training by two processes without Ray, which nobody disturbs."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    data = write_stripes(folder / "data").root
    setting = parse(PARAMS).setting(SETTING)
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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    if server.process.poll() is None:
        server.kill()


def test_rerun_of_a_killed_training_gives_the_same_bits(tmp_path, checkout, uninterrupted, server):
    """One training in which everything that can be killed is: each time it is started again and goes on."""
    folder = Checkout(tmp_path / "checkout", checkout, server.uri)
    kill_the_tracking_server_and_terminate(folder, server)
    execution = json.loads((folder.state / "run.json").read_text())["execution_id"]
    agents = kill_the_stage(folder)
    kill_the_raylet(folder)
    fill_the_disk(folder)
    output = kill_a_worker(folder)

    assert weights(folder.out) == weights(uninterrupted)
    assert history(folder.out) == history(uninterrupted)
    assert json.loads((folder.out / "run.json").read_text())["execution_id"] == execution
    assert f"{SETTING}: epoch {EPOCHS} of {EPOCHS}, condensing stage 3 of 3" in output
    assert folder.state is None  # a finished training leaves nothing that a new one could go on from
    server.start()
    assert_recorded(folder, execution)
    assert_gone(agents, timeout_s=120)


def train_on(folder: Checkout) -> subprocess.Popen:
    """Start the stage, and wait until it has gone further than all before it."""
    process, done = folder.start(), folder.newest_step
    wait_for(lambda: folder.newest_step > done, process)
    return process


def kill_the_tracking_server_and_terminate(folder: Checkout, server: Server) -> None:
    process = train_on(folder)
    server.kill()
    done = folder.epochs_done
    wait_for(lambda: folder.epochs_done > done, process)
    left = descendants(process)
    process.send_signal(signal.SIGTERM)
    output = finish(process, 143)
    assert f"paused after step {folder.newest_step} of {5 * EPOCHS}: run it again to resume from there" in output
    assert_gone(left)


def kill_the_stage(folder: Checkout) -> list[psutil.Process]:
    """Returns Ray's agents, who end later than the others."""
    done = folder.newest_step
    process = train_on(folder)
    left = descendants(process)
    agents = [each for each in left if is_agent(each)]
    process.kill()
    process.communicate()
    assert f"resumed after step {done} " in (folder.state / train_worker.MESSAGES).read_text()
    assert_gone([each for each in left if each not in agents])
    return agents


def kill_the_raylet(folder: Checkout) -> None:
    process = train_on(folder)
    left = descendants(process)
    next(each for each in left if each.name() == "raylet").kill()
    output = finish(process, 1)
    assert "error: Ray's raylet was killed: run it again to resume from the last checkpoint" in output.splitlines(), (
        output
    )
    assert_gone(left)


def fill_the_disk(folder: Checkout) -> None:
    """The kernel refuses the workers a file as large as a checkpoint."""
    process = train_on(folder)
    limit = max(path.stat().st_size for path in (folder.state / "checkpoints").glob("*.pt")) // 2
    for worker in workers(process):
        worker.rlimit(psutil.RLIMIT_FSIZE, (limit, limit))
    output = finish(process, 1)
    told = re.search(
        r"^error: the checkpoint of step (\d+) cannot be written to \S+: File too large; .*$", output, re.M
    )
    assert told is not None, output
    assert "Traceback" not in output
    whole = checkpoint_files.load_newest(folder.state / "checkpoints")
    assert whole["trainer"]["step"] == folder.newest_step < int(told[1])


def kill_a_worker(folder: Checkout) -> str:
    process = train_on(folder)
    workers(process)[-1].kill()
    output = finish(process)
    assert output.count("resumed after step") == 2
    return output


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    return [each for each in descendants(process) if is_worker(each)]


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "RayTrainWorker" in " ".join(process.cmdline())
    return False


def assert_recorded(folder: Checkout, execution: str) -> None:
    """What the killed server missed is there once it is back: all epochs, each once, in one finished run."""
    track = [sys.executable, "-m", "tasks.track"]
    done = subprocess.run(track, cwd=folder.root, env=folder.env, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    import mlflow

    client = mlflow.MlflowClient(folder.env["MLFLOW_TRACKING_URI"])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    assert run.info.status == "FINISHED"
    assert execution in run.data.tags.values()
    points = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in points] == list(range(1, EPOCHS + 1))
