"""The Ray that we start: who may connect, what listens where, and that nothing is left of it."""

from __future__ import annotations

import ipaddress
import os
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import command_line

from tasks import telemetry
from tasks.errors import UserError
from tasks.ray_local import ADDRESS, FAILED, NO_CLOUD, RAY_HOST, TOKEN, VARIABLE, LocalRay, ask, join

WAIT_S = 400
TRAINING = """
import sys, time
from pathlib import Path
from tasks import ray_cluster, train_worker
from tasks.params import RayParams
from condensenet.config import AugmentConfig, ModelConfig, TrainConfig

def work(config):
    job = config["job"]
    rank = train_worker.start_process_group(job)
    (job.folder / f"ready-{rank}").touch()
    while not (job.folder / "go").exists():
        time.sleep(0.1)

folder, params = Path(sys.argv[1]), RayParams(max_failures=0)
job = train_worker.Job(
    folder=folder, data=folder, model=ModelConfig(block_depths=(1,), growth_rates=(4,)), train=TrainConfig(),
    augment=AugmentConfig(), threads=1, use_gpu=False,
)
with ray_cluster.cluster(params):
    print(ray_cluster.train(work, job, params, folder))
"""
CONNECT = "import logging, sys, ray; ray.init(sys.argv[1], logging_level=logging.CRITICAL); print('connected')"
# Ray's gRPC servers listen on all interfaces whatever address the node has. Each of them asks for the token.
GUARDED = Counter(gcs_server=1, raylet=2)


_others: set[psutil.Process] = set()  # what earlier tests have started and still need


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.setattr(sys.modules[__name__], "_others", set(psutil.Process().children(recursive=True)))


@pytest.fixture
def local() -> Iterator[LocalRay]:
    with LocalRay(2, gpus=False) as offered:
        yield offered


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def started() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child not in _others]


def exposed(process: psutil.Process) -> int:
    """At how many ports the process listens beyond the loopback."""
    return sum(
        connection.status == psutil.CONN_LISTEN and not ipaddress.ip_address(connection.laddr.ip).is_loopback
        for connection in process.net_connections("inet")
    )


def test_nothing_is_started_before_it_is_asked_for(local: LocalRay) -> None:
    time.sleep(0.5)
    assert started() == []
    assert mode(local.folder) == 0o700
    assert mode(local.folder / TOKEN) == 0o600
    assert local.variables["RAY_AUTH_MODE"] == "token"


def test_a_folder_without_an_offer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no Ray is offered in .*gone, which {VARIABLE} names"):
        join(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"nonsense", b"host:port", b"a:" + b"9" * 5000, b"\xff\0:1", b"x" * 100 + b":1"])
def test_a_folder_with_a_wrong_address_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ADDRESS).write_bytes(content)
    with pytest.raises(UserError, match=rf"address holds .*, no HOST:PORT; {VARIABLE} names its folder") as error:
        join(tmp_path)
    assert "\n" not in str(error.value)


def test_one_that_cannot_start_says_why_and_is_tried_again_for_the_next() -> None:
    with LocalRay(-1, gpus=False) as local:
        with pytest.raises(UserError, match=r"Ray did not start in 3 attempts: .*-1"):
            join(local.folder)
        ask(local.folder)
        assert not (local.folder / FAILED).exists()


def test_what_listens_during_a_training_is_on_the_loopback_or_asks_for_the_token(
    local: LocalRay, tmp_path: Path, checkout: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout), **local.variables}
    command = [sys.executable, "-c", TRAINING, str(tmp_path)]
    training = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ready = [tmp_path / f"ready-{rank}" for rank in range(2)]
    wait_until(lambda: training.poll() is not None or all(path.exists() for path in ready), "no workers")
    processes = started()
    listeners = {process.name(): 0 for process in processes}
    for process in processes:
        listeners[process.name()] += exposed(process)
        assert exposed(process) <= GUARDED.get(process.name(), 1), command_line(process)
    assert any("RayTrainWorker" in " ".join(command_line(process)) for process in processes), listeners
    assert not any(exposed(process) for process in processes if "Agent" in process.name())

    address = join(local.folder)
    assert address.startswith(f"{RAY_HOST}:")
    assert mode(local.folder) == 0o700
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0123456789abcdef"}):
        stranger = subprocess.run(
            [sys.executable, "-c", CONNECT, address], env={**environment, **variables}, capture_output=True, text=True
        )
        assert stranger.returncode != 0
        assert "connected" not in stranger.stdout
    (tmp_path / "go").touch()
    assert training.communicate(timeout=WAIT_S)[0].strip() == "None"
    assert training.returncode == 0


def test_one_that_was_killed_is_started_again_for_the_next_and_ends_with_its_owner() -> None:
    with LocalRay(1, gpus=False) as local:
        first = join(local.folder)
        processes = started()
        head = next(process for process in processes if "tasks.ray_head" in command_line(process))
        assert {**telemetry.OFF, **NO_CLOUD}.items() <= head.environ().items()
        head.kill()
        assert psutil.wait_procs(processes, timeout=60)[1] == []
        assert join(local.folder) != first
        processes = started()
    assert psutil.wait_procs(processes, timeout=1)[1] == []
    assert not local.folder.exists()
