"""A benchmark has the machine to itself, other stages share it, and a killed holder leaves no lock behind."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from flows import study
from tasks import locks
from tasks.tracking import snapshots

CHECKOUT = Path(__file__).resolve().parents[2]
HOLD = "import sys; from tasks import locks\nwith getattr(locks, sys.argv[1])(): print('held', flush=True); input()"


class Stage:
    """A process that holds the machine, seen through the lines that it has printed so far."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.output = folder / f"{kind}-{time.monotonic_ns()}"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOLD, kind],
                cwd=folder,
                env={"PYTHONPATH": str(CHECKOUT)},
                stdin=subprocess.PIPE,
                stdout=output,
            )

    def says(self, text: str, within_s: float = 20) -> bool:
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if text in self.output.read_text():
                return True
            time.sleep(0.02)
        return False

    def finish(self) -> None:
        self.process.communicate(b"\n", timeout=20)


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[list[Stage]]:
    started: list[Stage] = []
    yield started
    for stage in started:
        stage.process.kill()
        stage.process.wait()


def start(stages: list[Stage], kind: str, folder: Path) -> Stage:
    stages.append(Stage(kind, folder))
    return stages[-1]


def test_two_stages_hold_the_machine_at_once(stages: list[Stage], tmp_path: Path) -> None:
    assert start(stages, "shared_machine", tmp_path).says("held")
    assert start(stages, "shared_machine", tmp_path).says("held")


def test_a_benchmark_waits_for_the_stages_and_stages_wait_for_a_benchmark(stages: list[Stage], tmp_path: Path) -> None:
    first, second = start(stages, "shared_machine", tmp_path), start(stages, "shared_machine", tmp_path)
    assert first.says("held")
    assert second.says("held")
    benchmark = start(stages, "quiet_machine", tmp_path)
    assert benchmark.says("waiting for other stages")
    first.finish()
    assert not benchmark.says("held", within_s=0.3)
    second.finish()
    assert benchmark.says("held")
    later = start(stages, "shared_machine", tmp_path)
    assert later.says("waiting for a benchmark")
    assert not later.says("held", within_s=0.3)
    benchmark.finish()
    assert later.says("held")


def test_a_waiting_benchmark_holds_up_no_stage(stages: list[Stage], tmp_path: Path) -> None:
    assert start(stages, "shared_machine", tmp_path).says("held")
    assert start(stages, "quiet_machine", tmp_path).says("waiting for other stages")
    assert start(stages, "shared_machine", tmp_path).says("held")


def test_a_killed_benchmark_frees_the_machine(stages: list[Stage], tmp_path: Path) -> None:
    benchmark = start(stages, "quiet_machine", tmp_path)
    assert benchmark.says("held")
    benchmark.process.kill()
    assert start(stages, "shared_machine", tmp_path).says("held")


def of_the_machine() -> AbstractContextManager[object]:
    return locks.shared_machine()


def of_a_snapshot() -> AbstractContextManager[object]:
    snapshot = snapshots.Snapshot(run={"execution_id": "x"}, stage="t", time_ms=1, workspace="/")
    return nullcontext(snapshots.put(snapshot))


def of_the_parameters() -> AbstractContextManager[object]:
    return study.params_in_use(Path("params.yaml").read_text(), composed=False)


@pytest.mark.parametrize("hold", [of_the_machine, of_a_snapshot, of_the_parameters])
def test_a_lock_that_is_shared_is_on_a_file_that_can_be_read(
    hold: Callable[[], AbstractContextManager[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS makes a lock of a range of bytes of it, which else is refused (flock(2))."""
    shutil.copy(CHECKOUT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
    with hold():
        pass


def test_a_folder_whose_owner_removes_it_has_one_owner_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    inside: list[str] = []

    def own(name: str) -> None:
        for number in range(300):
            with locks.owned(folder):
                inside.append(name)
                assert inside == [name]
                inside.remove(name)
                shutil.rmtree(folder.rename(tmp_path / f"{name}-{number}"))

    with ThreadPoolExecutor(3) as owners:
        list(owners.map(own, "abc"))
