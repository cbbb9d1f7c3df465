"""The cluster that RAY_ADDRESS names: one that is not there is told of at once."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import ray_local, telemetry
from tasks.errors import UserError
from tasks.params import RayParams


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import ray_cluster

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]  # bound, and nobody listens
        for wrong in (port, 99999):
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{wrong}")
            with (
                pytest.raises(UserError, match=f"RAY_ADDRESS=127.0.0.1:{wrong} is not allowed: nothing listens there"),
                ray_cluster.cluster(RayParams()),
            ):
                pass


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal"])
def test_a_training_still_gets_credentials_of_its_cloud(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Only Ray's head, which asks there where it runs, is led elsewhere."""
    from requests.utils import get_environ_proxies, select_proxy

    from tasks import ray_cluster

    def proxy() -> str | None:
        return select_proxy(f"http://{host}/latest", get_environ_proxies(f"http://{host}/latest"))

    for name, value in ray_local.NO_CLOUD.items():
        monkeypatch.setenv(name, value)
    assert proxy() == telemetry.NOWHERE
    for name in ray_local.NO_CLOUD:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:99999")
    with pytest.raises(UserError, match="nothing listens there"), ray_cluster.cluster(RayParams()):
        pass
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert proxy() is None


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a short path, in which temporary files are made."""
    tmp_path_factory.getbasetemp()  # before: else pytest's own folder would be in it, and go with it
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_ray_says_one_sentence_and_others_what_they_like(capsys: pytest.CaptureFixture[str]) -> None:
    from tasks.ray_messages import brief_messages

    text = "The node 10.0.0.2 is dead. Its log:\n    one\n    two"
    with brief_messages():
        for file in (sys.stdout, sys.stderr):
            ray = threading.Thread(target=print, args=[text], kwargs={"file": file}, name="ray_listen_error_messages")
            ray.start()
            ray.join()
        print(text)
        print(text, file=sys.stderr)
    said = capsys.readouterr()
    assert said.out == f"The node 10.0.0.2 is dead\n{text}\n"
    assert said.err == f"The node 10.0.0.2 is dead\n{text}\n"


def test_where_a_path_leaves_no_room_for_sockets_another_is_taken(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the TMPDIR that a batch system gives to a job."""
    with ray_local.new_folder() as short:
        assert short.parents[1] == temporary
    long = tmp_path / "of-a-batch-system" / "job-1234567"
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with ray_local.new_folder() as made, socket.socket(socket.AF_UNIX) as probe:
        assert made.parents[1] == Path("/tmp")
        with pytest.raises(FileNotFoundError):  # not: AF_UNIX path too long
            probe.connect(str(made / ray_local.SOCKET))
