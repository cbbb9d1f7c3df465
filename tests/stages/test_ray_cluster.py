"""The cluster that RAY_ADDRESS names: one that is not there is told of at once."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

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


def test_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import ray_local

    monkeypatch.setattr(ray_local.tempfile, "tempdir", str(tmp_path))
    living = ray_local.new_folder()
    abandoned, young, other = (tmp_path / name for name in ("cn-ray-abandoned", "cn-ray-young", "another"))
    for folder in (abandoned, young, other):
        (folder / "session").mkdir(parents=True)
    pipe = tmp_path / "cn-ray-pipe"
    os.mkfifo(pipe)  # another user's: opening it would wait for a writer
    for folder in (living, abandoned, other):
        os.utime(folder, (0, 0))
    new = ray_local.new_folder()
    assert set(tmp_path.iterdir()) == {living, young, other, pipe, new}


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
