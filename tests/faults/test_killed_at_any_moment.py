"""A training killed with SIGKILL at moments over its whole schedule ends with the bits of one that nobody disturbs."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import killing
import pytest
import torch
from killing import DROPPING, DROPS, PLACES, WRITING, Moment
from training_example import MODEL, write_stripes

from condensenet import ModelConfig

pytestmark = pytest.mark.usefixtures("forkserver")
TIMEOUT_S = 120
LIVE, KILLED = 0, -signal.SIGKILL


class Runs:
    """Starts processes of a training in one folder, which resume what those before them left."""

    def __init__(self, folder: Path, data: Path, model: ModelConfig = MODEL) -> None:
        self.folder, self.model = folder, model
        self._context = multiprocessing.get_context("forkserver")  # a process in a hundredth of a second
        self._started = 0
        shutil.copytree(data, folder / "data")

    def start(
        self, world_size: int = 1, moment: Moment | None = None, rank: int = 0
    ) -> list[multiprocessing.process.BaseProcess]:
        """``moment`` is when ``rank`` kills itself."""
        self._started += 1
        processes = []
        for number in range(world_size):
            own = moment if number == rank else None
            arguments = (self.folder, own, self.model, number, world_size, f"meeting-{self._started}")
            processes.append(self._context.Process(target=killing.run, args=arguments, daemon=True))
        for process in processes:
            process.start()
        return processes

    def finish(self, world_size: int = 1) -> list[dict]:
        assert [ended(process) for process in self.start(world_size)] == [LIVE] * world_size
        return [torch.load(self.folder / f"result-{rank}.pt") for rank in range(world_size)]


def ended(process: multiprocessing.process.BaseProcess) -> int | None:
    process.join(TIMEOUT_S)
    return process.exitcode


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("data") / "data").root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[int, list[dict]]:
    """The results by the number of processes."""
    folders = {world_size: tmp_path_factory.mktemp("undisturbed") for world_size in (1, 2)}
    return {world_size: Runs(folder, data).finish(world_size) for world_size, folder in folders.items()}


def schedule(seed: int, count: int) -> list[Moment]:
    """``count`` moments drawn from all, and every place in a checkpoint's writing and at a drop."""
    draw, everything = random.Random(seed), killing.all_moments()
    special = [draw.choice([moment for moment in everything if moment.place == place]) for place in WRITING]
    special += [Moment(step, draw.choice(DROPPING)) for step in DROPS]
    return sorted({*special, *draw.sample(everything, count)}, key=lambda moment: moment.order)


@pytest.mark.parametrize("seed", [1, 2])
def test_one_process(seed: int, data: Path, undisturbed: dict[int, list[dict]], tmp_path: Path) -> None:
    assert killed_again_and_again(Runs(tmp_path, data), schedule(seed, 40)) == undisturbed[1]


def test_one_process_without_dropout(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Then dense blocks run in compiled kernels, where they are built."""
    folders = [tmp_path_factory.mktemp(name) for name in ("undisturbed", "killed")]
    undisturbed, killed = (Runs(folder, data, replace(MODEL, dropout=0.0)) for folder in folders)
    assert killed_again_and_again(killed, schedule(5, 20)) == undisturbed.finish()


def killed_again_and_again(runs: Runs, moments: list[Moment]) -> list[dict]:
    for moment in moments:
        (process,) = runs.start(moment=moment)
        assert ended(process) == KILLED, moment
    return runs.finish()


def test_one_of_two_processes(data: Path, undisturbed: dict[int, list[dict]], tmp_path: Path) -> None:
    """The other one notices and ends by itself, and both start again, as Ray would have it."""
    draw = random.Random(3)
    runs = Runs(tmp_path, data)
    for moment in schedule(3, 15):
        rank = 0 if moment.place in WRITING else draw.randrange(2)
        exits = [ended(process) for process in runs.start(2, moment, rank)]
        assert exits[rank] == KILLED, moment
        assert exits[1 - rank] == 1, moment
    assert runs.finish(2) == undisturbed[2]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on(
    before: int, after: int, data: Path, undisturbed: dict[int, list[dict]], tmp_path: Path
) -> None:
    """Exactly from where it was; from there on the sums are formed in another order, so the bits are others."""
    runs = Runs(tmp_path, data)
    for process in runs.start(before, Moment(23, "before the weights change")):
        ended(process)
    results = runs.finish(after)
    done = 4  # epochs of five steps
    for result in results:
        assert result["bits"] == results[0]["bits"]
        assert result["history"][:done] == undisturbed[before][0]["history"][:done]
        assert len(result["history"]) == killing.CONFIG.epochs
        assert result["history"][-1]["condensing_stage"] == 3
        assert result["history"][-1]["train_loss"] < 0.7 * result["history"][0]["train_loss"]


def test_from_outside_at_random_times(data: Path, undisturbed: dict[int, list[dict]], tmp_path: Path) -> None:
    draw = random.Random(4)
    runs, killed = Runs(tmp_path, data), 0
    while killed < 15:
        (process,) = runs.start()
        time.sleep(draw.uniform(0, 0.25))
        process.kill()
        if ended(process) == LIVE:
            break
        killed += 1
    assert killed >= 3
    assert runs.finish() == undisturbed[1]


def test_schedules_come_by_every_place() -> None:
    assert {moment.place for seed in (1, 2) for moment in schedule(seed, 40)} == {*PLACES}
