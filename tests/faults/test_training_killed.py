"""The train stage, killed for real: the rerun ends with the weights of an uninterrupted run, to the bit."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import command_line
from tracking_server import Server
from trainings import (
    EPOCHS,
    SETTING,
    TIMEOUT_S,
    Checkout,
    Stage,
    assert_gone,
    descendants,
    finish,
    history,
    is_agent,
    wait_for,
    weights,
)

from condensenet.training import checkpoint_files
from tasks import train_worker
from tasks.ray_local import LocalRay, join


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


def train_on(folder: Checkout) -> Stage:
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
    process.end()
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


def workers(process: Stage) -> list[psutil.Process]:
    return [each for each in descendants(process) if is_worker(each)]


def is_worker(process: psutil.Process) -> bool:
    return "RayTrainWorker" in " ".join(command_line(process))


def assert_recorded(folder: Checkout, execution: str) -> None:
    """What the killed server missed is there once it is back: all epochs, each once, in one finished run."""
    track = [sys.executable, "-m", "tasks.track"]
    done = subprocess.run(track, cwd=folder.root, env=folder.env, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    import mlflow

    client = mlflow.MlflowClient(folder.env["MLFLOW_TRACKING_URI"])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, "attributes.run_name != 'all settings'")
    assert run.info.status == "FINISHED"
    assert execution in run.data.tags.values()
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == list(range(1, EPOCHS + 1))


def test_a_killed_training_leaves_the_ray_of_its_flow_to_the_others(tmp_path, checkout, uninterrupted, monkeypatch):
    """As in a flow: the stage joins a Ray that is not its own, is killed there, and a second one goes on there."""
    folder = Checkout(tmp_path / "checkout", checkout, f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    with LocalRay(2, gpus=False) as ray:
        folder.env.update(ray.variables)
        process = train_on(folder)
        address, mine = join(ray.folder), psutil.Process().children(recursive=True)
        own_workers = [each for each in mine if is_worker(each)]
        assert len(own_workers) == 2
        process.kill()
        process.end()
        assert_gone(own_workers, timeout_s=60)

        process = train_on(folder)
        process.send_signal(signal.SIGTERM)
        output = finish(process, 143)
        assert f"paused after step {folder.newest_step} of {5 * EPOCHS}: run it again to resume from there" in output

        finish(folder.start())
        assert weights(folder.out) == weights(uninterrupted)
        assert join(ray.folder) == address  # it is still the same
