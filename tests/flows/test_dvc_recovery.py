"""What a DVC that was killed leaves behind: the next stage or flow mends it, and no finished stage is run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from workspaces import Workspace, wait_until

from flows.dvc_recovery import recover
from flows.graph import read_graph
from flows.stage_process import StageRunner

LOCK, COPY, RWLOCK = Path("dvc.lock"), Path("state/dvc.lock"), Path(".dvc/tmp/rwlock")
KILLED_WHILE_IT_WRITES = """
import os, signal, sys
from ruamel.yaml import YAML
from dvc.cli import main

dump = YAML.dump

def dump_or_die(yaml, data, stream=None, **options):
    if getattr(stream, "name", "").endswith("dvc.lock"):
        os.kill(os.getpid(), signal.SIGKILL)  # the file is empty by now
    dump(yaml, data, stream, **options)

YAML.dump = dump_or_die
main(sys.argv[1:])
"""


@pytest.fixture
def inside(stub: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A stub workspace as the working folder of this process."""
    monkeypatch.chdir(stub.path)
    return stub


@pytest.fixture
def prepared(inside: Workspace) -> Workspace:
    """One stage has been run by a flow's means."""
    StageRunner().run("prepare", lambda line: None)
    return inside


def events() -> list[str]:
    return Path("state/events").read_text().splitlines()


def recovered() -> list[str]:
    lines: list[str] = []
    assert recover(lines.append) == bool(lines)
    return lines


def test_dvc_was_killed_while_it_wrote_its_lock_file(prepared: Workspace) -> None:
    finished = LOCK.read_text()
    for _ in range(2):
        done = prepared.run(sys.executable, "-c", KILLED_WHILE_IT_WRITES, "repro", "train@g4-c2", check=False)
        assert done.returncode == -signal.SIGKILL
        assert LOCK.read_text() == ""
        (line,) = recovered()  # DVC itself removes its dead from the list of commands
        assert "dvc.lock is not whole" in line
        assert LOCK.read_text() == finished
    LOCK.write_text(finished[: len(finished) // 2])
    output = prepared.flow().stdout
    assert "dvc.lock is not whole" in output
    assert "prepare unchanged" in output
    assert events().count("begin g4-c2") == 1  # DVC had put it into its cache of runs


def test_a_stage_is_repeated_if_another_dvc_damaged_the_lock_file_before_it_began(inside: Workspace) -> None:
    LOCK.write_text("")
    lines: list[str] = []
    assert StageRunner().run("prepare", lines.append).status == "ran"
    assert any("no stage had finished" in line for line in lines)
    assert recovered() == []
    assert COPY.read_text() == LOCK.read_text()


def test_no_beginning_of_the_file_is_taken_for_whole(prepared: Workspace) -> None:
    content = LOCK.read_bytes()
    line_ends = {place + 1 for place, byte in enumerate(content) if byte == ord("\n")}
    for size in sorted(set(range(0, len(content), 29)) - line_ends):
        LOCK.write_bytes(content[:size])
        assert len(recovered()) == 1
        assert LOCK.read_bytes() == content


def test_a_merge_that_is_to_be_ended_by_a_person_is_left_alone(prepared: Workspace) -> None:
    conflict = LOCK.read_text().replace("prepare:", "<<<<<<< HEAD\n  prepare:\n=======\n  prepare:\n>>>>>>> other", 1)
    LOCK.write_text(conflict)
    assert recovered() == []
    assert LOCK.read_text() == conflict


def test_outside_a_repository_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recovered() == []
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_cannot_be_written_is_no_failure_of_the_stage(inside: Workspace) -> None:
    (inside.path / COPY).mkdir(parents=True)
    lines: list[str] = []
    assert StageRunner().run("prepare", lines.append).status == "ran"
    assert any(line.startswith("dvc.lock was not copied: ") for line in lines)


def test_a_list_of_commands_that_was_being_written_is_emptied(inside: Workspace) -> None:
    RWLOCK.parent.mkdir(parents=True, exist_ok=True)
    RWLOCK.write_text("")
    lines: list[str] = []
    assert StageRunner().run("prepare", lines.append).status == "ran"
    assert any(f"{RWLOCK} was not whole" in line for line in lines)


def test_a_command_whose_number_another_process_has_now_blocks_nothing(inside: Workspace) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            output = os.path.abspath("out/digits/data")
            entry = {"pid": other.pid, "cmd": f"{sys.executable} -m dvc repro"}
            RWLOCK.parent.mkdir(parents=True, exist_ok=True)
            RWLOCK.write_text(json.dumps({"write": {output: entry}, "read": {output: [entry]}}))
            lines: list[str] = []
            assert StageRunner().run("prepare", lines.append).status == "ran"
            assert any("named ended processes" in line for line in lines)
        finally:
            other.kill()


def test_running_commands_stay_in_the_list(inside: Workspace) -> None:
    Path("slow").write_text("3\n")
    inside.dvc("repro", "prepare")
    by_hand = inside.start(sys.executable, "-m", "dvc", "repro", "train@g4-c2")
    wait_until(lambda: Path("state/events").exists(), 60)
    busy = json.loads(RWLOCK.read_text())
    assert busy["write"]
    assert recovered() == []
    assert json.loads(RWLOCK.read_text()) == busy
    assert by_hand.wait(60) == 0


def test_the_graph_is_read_while_another_writes_the_lock_file(prepared: Workspace) -> None:
    """It waits; without DVC's lock it would read an empty file."""
    script = """
import time, pathlib
from dvc.repo import Repo
with Repo(".") as repo, repo.lock:
    file = pathlib.Path("dvc.lock")
    content = file.read_text()
    file.write_text("")
    print("empty", flush=True)
    time.sleep(1)
    file.write_text(content)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "empty\n"
        assert "prepare" in read_graph()


def test_what_a_killed_command_had_started_is_ended() -> None:
    script = """
import os, signal, subprocess
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-m", "flows.supervise", sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        sleeper = int(supervisor.stdout.readline())
        assert supervisor.wait(20) == 128 + signal.SIGKILL
    assert not psutil.pid_exists(sleeper) or psutil.Process(sleeper).status() == psutil.STATUS_ZOMBIE
