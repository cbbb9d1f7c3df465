"""A training over nodes that see neither the checkout nor its data: code by Ray, the rest by an object store."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nodes
import pytest
from object_server import BUCKET, object_server
from trainings import SETTING, Checkout, Stage, finish, history, train_undisturbed, wait_for, weights

from tasks import train_worker

EPOCHS = 240  # a minute: a stage waits ten seconds for a lost head, and its workers train on meanwhile
WAITING = "waiting 120 s for nodes to join: 2 workers are wanted, and they need 2 CPUs, the cluster has"
INSTALLED = "import importlib.util as u; print(*(u.find_spec(n).submodule_search_locations[0] for n in {}))"
PACKAGES = ("condensenet", "tasks")


@pytest.fixture
def cluster(tmp_path: Path, checkout: Path) -> Iterator[nodes.Nodes]:
    if reason := nodes.why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="cn-") as folder, nodes.three_nodes(Path(folder)) as three:
        server = object_server(tmp_path / "s3.log", "10.77.0.1", 5000, three.inside("head"))
        with server as variables:
            three.variables.update(variables)
            three.hidden = [*places_of_our_code(checkout), tmp_path]
            yield three


def places_of_our_code(checkout: Path) -> set[Path]:
    """Here and where an editable installation would lead to."""
    command = [sys.executable, "-I", "-c", INSTALLED.format(PACKAGES)]
    installed = subprocess.run(command, cwd="/", capture_output=True, text=True)
    return {*(checkout / name for name in PACKAGES), *map(Path, installed.stdout.split())}


def start(folder: Checkout, cluster: nodes.Nodes) -> Stage:
    """Ray on all nodes, the last one once the stage on the head's machine waits for it; returns after an epoch."""
    for node in ("head", "left"):
        cluster.start(node)
    folder.env.update(cluster.variables, RAY_ADDRESS=cluster.address)
    process = folder.start(*cluster.inside("head"))
    wait_for(lambda: WAITING in process.said, process)
    cluster.start("right")
    wait_for_an_epoch(folder, process)
    return process


def wait_for_an_epoch(folder: Checkout, process: Stage) -> None:
    done = folder.epochs_done
    wait_for(lambda: folder.epochs_done > done, process)


def messages(folder: Checkout) -> str:
    return (folder.state / train_worker.MESSAGES).read_text()


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()


def test_nodes_and_the_head_are_killed_and_the_bits_stay(tmp_path: Path, checkout: Path, cluster: nodes.Nodes) -> None:
    uri, storage = f"sqlite:///{tmp_path}/mlflow.db", f"s3://{BUCKET}/tests"
    folder = Checkout(tmp_path / "checkout", checkout, uri, EPOCHS, storage=storage)
    process = start(folder, cluster)
    assert not (folder.state / train_worker.CHECKPOINTS).exists()

    cluster.kill_raylet("right")
    cluster.start("right")
    wait_for(lambda: "resumed after step" in messages(folder), process)
    wait_for_an_epoch(folder, process)

    cluster.kill("head")
    output = finish(process, 1)
    assert "state-dump" not in output
    assert output.count(f"Ray's head at {cluster.address} is gone: killed, or not to be reached") == 1
    assert "uploading" in output
    for node in ("left", "right"):
        cluster.kill(node)
    output = finish(start(folder, cluster))
    assert f"{SETTING}: epoch {EPOCHS} of {EPOCHS}" in output
    assert "resumed after step" in output
    assert "uploading" not in output

    (tmp_path / "undisturbed").mkdir()
    undisturbed = train_undisturbed(tmp_path / "undisturbed", EPOCHS)
    assert sha256(folder.out) == sha256(undisturbed)
    assert weights(folder.out) == weights(undisturbed)
    assert history(folder.out) == history(undisturbed)
    assert folder.state is None
