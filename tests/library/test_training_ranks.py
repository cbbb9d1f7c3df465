"""Two real processes that train together (gloo): they hold the same masks, and it is noticed when they do not."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from training_example import AUGMENT, TRAIN, bits, new_model, without_time, write_stripes

from condensenet.data import PreparedData
from condensenet.training import Trainer, TrainingFailed, TrainingPaused, checkpoint_files, distributed, fit
from condensenet.training.evaluation import evaluate

WORLD_SIZE = 2

pytestmark = pytest.mark.slow


def _rank(rank: int, folder: Path) -> None:
    """One process: joins the other, does every job and writes what came of it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD_SIZE)
    results = {}
    for job in JOBS:
        untouched = Trainer.condense, Trainer.train_step
        own = folder / job.__name__
        own.mkdir(exist_ok=True)
        try:
            results[job.__name__] = job(folder / "data", own / "checkpoints", rank)
        except Exception as error:
            results[job.__name__] = {"error": f"{type(error).__name__}: {error}"}
        Trainer.condense, Trainer.train_step = untouched
    torch.save(results, folder / f"results-{rank}.pt")
    dist.destroy_process_group()


def train_and_watch(data: Path, checkpoints: Path, rank: int) -> dict:
    """Masks after each condensing stage, and all of the state in the end; the starting weights differ on purpose."""
    masks: dict[int, list] = {}
    condense = Trainer.condense

    def watched(self: Trainer) -> None:
        condense(self)
        stage = self.model.condensing_stage
        masks.setdefault(stage, [layer.group_mask.clone() for layer in self.model.learned_layers()])

    Trainer.condense = watched
    model = new_model()
    if rank == 1:
        with torch.no_grad():
            model.stem.weight.add_(1)
    history = list(fit(model, PreparedData(data), AUGMENT, TRAIN, checkpoints=checkpoints))
    return {"masks": masks, "bits": bits(model), "history": without_time(history)}


def resume_in_mid_epoch(data: Path, checkpoints: Path, rank: int) -> dict:
    """As ``train_and_watch``, stopped in the second epoch and resumed."""
    train_step = Trainer.train_step

    class Stop(Exception):
        pass

    def stopping(self: Trainer, *batch: torch.Tensor) -> None:
        if self.step == 8:
            raise Stop
        train_step(self, *batch)

    Trainer.train_step = stopping
    try:
        list(fit(new_model(), PreparedData(data), AUGMENT, TRAIN, checkpoints=checkpoints))
    except Stop:
        Trainer.train_step = train_step
    assert [path.name.split("-")[1] for path in sorted(checkpoints.glob("*.pt"))] == ["00000005", "00000006"]
    model = new_model()
    history = list(fit(model, PreparedData(data), AUGMENT, TRAIN, checkpoints=checkpoints))
    return {"bits": bits(model), "history": without_time(history)}


def pause_and_resume(data: Path, checkpoints: Path, rank: int) -> dict:
    """As ``train_and_watch``; first one rank alone is told to stop, then the other, then one in the evaluation."""
    steps = []
    # (told rank, call): questions are asked after each of five steps and of the two batches of an epoch's evaluation
    for told, call in ((0, 3), (1, 4), (1, 3)):
        calls = iter(range(1, 1000))
        stop = (lambda calls=calls, call=call: next(calls) >= call) if rank == told else None
        try:
            list(fit(new_model(), PreparedData(data), AUGMENT, TRAIN, checkpoints=checkpoints, stop=stop))
        except TrainingPaused as paused:
            steps.append(paused.step)
        dist.barrier()
    model = new_model()
    history = list(fit(model, PreparedData(data), AUGMENT, TRAIN, checkpoints=checkpoints))
    return {"steps": steps, "bits": bits(model), "history": without_time(history)}


def tampered_weights(data: Path, checkpoints: Path, rank: int) -> dict:
    """Rank 1 changes weights behind everybody's back before the first drop."""
    train_step = Trainer.train_step

    def tampering(self: Trainer, *batch: torch.Tensor) -> None:
        train_step(self, *batch)
        if rank == 1 and self.step == 2:
            weight = next(self.model.learned_layers()).full_weight
            with torch.no_grad():
                weight.copy_(weight.flip(1))

    Trainer.train_step = tampering
    list(fit(new_model(), PreparedData(data), AUGMENT, TRAIN))
    return {"error": None}


def averages(data: Path, checkpoints: Path, rank: int) -> dict:
    tensors = [torch.tensor([1.0, 2.0]) * (rank + 1), torch.full((2, 2), float(rank))]
    distributed.average_(tensors)
    return {"tensors": tensors}


def evaluate_together(data: Path, checkpoints: Path, rank: int) -> dict:
    """43 images, so one rank has one more, and the last batches differ in size."""
    split = PreparedData(data).split("train")
    loss, error_pct = evaluate(new_model(), split, 8)
    return {"loss": loss, "error_pct": error_pct}


def diverging(data: Path, checkpoints: Path, rank: int) -> dict:
    list(fit(new_model(), PreparedData(data), AUGMENT, replace(TRAIN, learning_rate=1000.0)))
    return {"error": None}


def nan_on_one_rank(data: Path, checkpoints: Path, rank: int) -> dict:
    """Rank 1 alone sees an image that is not a number, at step 7; the last checkpoint before is that of step 6."""
    train_step = Trainer.train_step

    def poisoned(self: Trainer, images: torch.Tensor, labels: torch.Tensor) -> None:
        train_step(self, images * float("nan") if rank == 1 and self.step == 7 else images, labels)

    Trainer.train_step = poisoned
    error = None
    try:
        list(fit(new_model(), PreparedData(data), AUGMENT, TRAIN, checkpoints=checkpoints))
    except TrainingFailed as stopped:
        error = str(stopped)
    return {"error": error, "left": sorted(path.name.split("-")[1] for path in checkpoints.glob("*.pt"))}


JOBS = (
    train_and_watch,
    resume_in_mid_epoch,
    pause_and_resume,
    tampered_weights,
    averages,
    evaluate_together,
    diverging,
    nan_on_one_rank,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, list[dict]]:
    """What came of each job, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    write_stripes(folder / "data")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_rank, args=(rank, folder), daemon=True) for rank in range(WORLD_SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    by_rank = [torch.load(folder / f"results-{rank}.pt") for rank in range(WORLD_SIZE)]
    return {job.__name__: [result[job.__name__] for result in by_rank] for job in JOBS}


def test_all_ranks_hold_the_same_mask_after_each_condensing_stage(results):
    first, second = (result["masks"] for result in results["train_and_watch"])
    assert sorted(first) == sorted(second) == [0, 1, 2, 3]
    for stage in range(4):
        for mask, other in zip(first[stage], second[stage], strict=True):
            assert torch.equal(mask, other)
            assert mask.float().mean() == 1 - stage / 4
    assert any(not torch.equal(a, b) for a, b in zip(first[1], first[2], strict=True))


def test_all_ranks_hold_the_same_weights_and_statistics_in_the_end(results):
    first, second = results["train_and_watch"]
    assert first["bits"] == second["bits"]
    assert first["history"] == second["history"]


def test_two_ranks_resume_to_the_bit(results):
    for uninterrupted, resumed in zip(results["train_and_watch"], results["resume_in_mid_epoch"], strict=True):
        assert resumed["bits"] == uninterrupted["bits"]
        assert resumed["history"] == uninterrupted["history"]


def test_one_rank_that_is_told_to_stop_stops_all_after_the_same_step(results):
    first, second = results["pause_and_resume"]
    # told after step 3, heard of with step 4; told after step 6, heard of with step 7; told in the evaluation at 10
    assert first["steps"] == second["steps"] == [4, 7, 10]
    for uninterrupted, resumed in zip(results["train_and_watch"], (first, second), strict=True):
        assert resumed["bits"] == uninterrupted["bits"]
        assert resumed["history"] == uninterrupted["history"]


def test_masks_that_differ_are_noticed_on_every_rank(results):
    for result in results["tampered_weights"]:
        assert result["error"] == "RuntimeError: masks of condensing stage 1 of rank [1] differ from those of rank 0"


def test_loss_that_is_not_finite_stops_every_rank(results):
    for result in results["diverging"]:
        assert result["error"].startswith("TrainingFailed: the loss is not finite at step")


def test_nan_on_one_rank_stops_both_and_reaches_no_checkpoint(results):
    for result in results["nan_on_one_rank"]:
        assert result["error"].startswith("the loss is not finite at step 7 (epoch 2)")
        assert result["left"] == ["00000005", "00000006"]


def test_average(results):
    for result in results["averages"]:
        assert torch.equal(result["tensors"][0], torch.tensor([1.5, 3.0]))
        assert torch.equal(result["tensors"][1], torch.full((2, 2), 0.5))


def test_ranks_count_every_image_once_between_them(results, tmp_path):
    loss, error_pct = evaluate(new_model(), write_stripes(tmp_path / "data").split("train"), 8)
    first, second = results["evaluate_together"]
    assert first == second
    assert first["error_pct"] == error_pct  # to the bit: a count of errors over 43 images
    assert first["loss"] == pytest.approx(loss, rel=1e-6)


def test_resume_with_fewer_processes_goes_on_and_says_that_it_is_not_exact(tmp_path, caplog):
    data, checkpoints = write_stripes(tmp_path / "data"), tmp_path / "checkpoints"
    next(fit(new_model(), data, AUGMENT, TRAIN, checkpoints=checkpoints))
    content = checkpoint_files.load_newest(checkpoints)
    for path in checkpoints.glob("*.pt"):
        path.unlink()
    environment = {**content["environment"], "processes": 2}
    checkpoint_files.save(checkpoints, content["trainer"]["step"], {**content, "environment": environment})
    history = list(fit(new_model(), data, AUGMENT, TRAIN, checkpoints=checkpoints))
    assert [row.epoch for row in history] == [1, 2, 3, 4]
    assert "the weights may differ from those of an uninterrupted training: processes was 2, is 1" in caplog.text
