"""A training over two nodes of a Ray cluster of three: nodes and the head are killed, and the bits stay the same."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nodes
import psutil
import pytest
from processes import command_line
from trainings import SETTING, Checkout, Stage, finish, history, train_undisturbed, wait_for, weights

from tasks import train_worker

EPOCHS = 300  # half a minute: a stage waits ten seconds for a lost head, and its workers train on meanwhile


@pytest.fixture
def cluster() -> Iterator[nodes.Nodes]:
    if reason := nodes.why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="cn-") as folder, nodes.three_nodes(Path(folder)) as three:
        for node in nodes.NODES:
            three.start(node)
        yield three


def start(folder: Checkout, cluster: nodes.Nodes) -> Stage:
    """The stage on the head's machine, once it has gone further than all before it."""
    folder.env.update(cluster.variables, RAY_ADDRESS=cluster.address)
    done = folder.newest_step
    process = folder.start(*cluster.inside("head"))
    wait_for(lambda: folder.newest_step > done, process)
    return process


def namespaces_of_workers(cluster: nodes.Nodes) -> set[str]:
    return {
        node
        for node in nodes.NODES
        for pid in subprocess.run(
            ["ip", "netns", "pids", cluster.namespace(node)], capture_output=True, text=True, check=True
        ).stdout.split()
        if psutil.pid_exists(int(pid)) and "RayTrainWorker" in " ".join(command_line(psutil.Process(int(pid))))
    }


def messages(folder: Checkout) -> str:
    return (folder.state / train_worker.MESSAGES).read_text()


def test_nodes_and_the_head_are_killed_and_the_bits_stay(tmp_path: Path, checkout: Path, cluster: nodes.Nodes) -> None:
    folder = Checkout(tmp_path / "checkout", checkout, f"sqlite:///{tmp_path}/mlflow.db", EPOCHS)
    process = start(folder, cluster)
    assert namespaces_of_workers(cluster) == {"left", "right"}

    cluster.kill_raylet("right")
    cluster.start("right")
    wait_for(lambda: "resumed after step" in messages(folder), process)  # its workers live on for a moment
    done = folder.newest_step
    wait_for(lambda: folder.newest_step > done, process)
    assert messages(folder).count("resumed after step") == 1

    cluster.kill("head")
    output = finish(process, 1)
    assert "state-dump" not in output
    gone = f"Ray's head at {cluster.address} is gone: killed, or not to be reached"
    assert output.count(gone) == 1
    assert "run it again to resume from the last checkpoint" in output
    for node in ("left", "right"):
        cluster.kill(node)
    for node in nodes.NODES:
        cluster.start(node)
    output = finish(start(folder, cluster))
    assert f"{SETTING}: epoch {EPOCHS} of {EPOCHS}" in output
    assert "resumed after step" in output
    (tmp_path / "undisturbed").mkdir()
    undisturbed = train_undisturbed(tmp_path / "undisturbed", EPOCHS)
    assert weights(folder.out) == weights(undisturbed)
    assert history(folder.out) == history(undisturbed)
