"""Process groups: the order of their turns and their end, with real processes; rows checked by hand."""

from __future__ import annotations

import json
import multiprocessing
import time

import pytest

from benchmarks import process_groups, ray_overhead
from benchmarks.side_by_side import CIFAR_AUGMENT, prepared
from condensenet import ModelConfig, TrainConfig
from tasks.train_worker import Job

TINY = ModelConfig(block_depths=(1, 1), growth_rates=(4, 4), num_classes=3)


def test_two_plain_groups_take_turns_and_end(tmp_path):
    with prepared(None, 32, 8, 3) as data:
        job = Job(
            folder=tmp_path,
            data=data.root,
            model=TINY,
            train=TrainConfig(batch_size=4),
            augment=CIFAR_AUGMENT,
            threads=1,
            use_gpu=False,
        )
        context = multiprocessing.get_context("spawn")
        groups = ["ddp", "one"]
        processes = [context.Process(target=process_groups.in_process, args=(0, 1, group, job, 2)) for group in groups]
        for process in processes:
            process.start()
        alive = lambda: all(process.is_alive() for process in processes)  # noqa: E731
        for group in groups:
            assert ray_overhead.ready(tmp_path, group, alive) <= time.time()
        times = process_groups.lead(tmp_path, groups, 3, float("inf"), alive)
        process_groups.end(tmp_path)
        for process in processes:
            process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [{group: len(seconds) for group, seconds in turn.items()} for turn in times] == [{"ddp": 2, "one": 2}] * 3
    done = [(tmp_path / f"done-{group}-1").stat().st_mtime_ns for group in groups]
    assert done[1] < done[0]  # the second turn went the other way round


def test_no_one_waits_for_dead_processes(tmp_path):
    with pytest.raises(TimeoutError, match="ready-ddp"):
        ray_overhead.ready(tmp_path, "ddp", alive=lambda: False)


def test_rows_by_hand():
    times = [
        {"ddp": [1.0, 1.0], "one": [1.5, 1.5], "ray": [1.1, 1.1]},
        {"ddp": [2.0, 2.0], "one": [3.0, 3.0], "ray": [2.2, 2.2]},
    ]
    ddp, one, ray = ray_overhead.rows_of(times, {"ray": 9.0}, batch_size=3)
    assert [row["group"] for row in (ddp, one, ray)] == ["ddp", "one", "ray"]
    assert (ddp["overhead_pct"], ray["overhead_pct"]) == pytest.approx((0, 10))
    assert one["overhead_pct"] is None
    assert ddp["scaling_efficiency_pct"] == pytest.approx(75)
    assert ddp["images_per_s"] == pytest.approx(2)
    assert (ray["start_up_s"], ddp["start_up_s"]) == (9.0, None)
    quick = [{group: seconds for group, seconds in turn.items() if group != "one"} for turn in times]
    assert json.loads(json.dumps(ray_overhead.rows_of(quick, {}, 3)))[1]["scaling_efficiency_pct"] is None
