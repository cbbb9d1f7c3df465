"""The command ``flows.plan``, on the checkout's own studies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from condensenet.machine import usable_cores
from flows import plan
from tasks import params
from tasks.errors import UserError
from tasks.planning import machine
from tasks.planning.plan import Images, plan_setting


def run(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.plan", *arguments]
    return subprocess.run(command, cwd=checkout, env=os.environ | environment, capture_output=True, text=True)


def test_another_study_is_planned_without_touching_params(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_bytes()
    rate = ("--images-per-s", "1000", "--watts", "500")
    done = run(checkout, "--study", "imagenet", "--images", "1281167,50000", "--set", "train.epochs=2", *rate)
    assert (checkout / "params.yaml").read_bytes() == before
    assert "imagenet: 1,281,167 training and 50,000 test images" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("condensenet-74-g8"))
    assert {"8", "262", "10,008", "1,000"} <= set(row.split())  # workers, MACs, steps, images/s
    assert "Images per second: given by --images-per-s." in done.stdout
    assert "Decoding for 1,000 images/s takes about 1.8 CPU cores a worker." in done.stdout
    assert done.returncode == 0 or "error: this machine cannot hold it: disk:" in done.stderr


def test_without_a_rate_there_are_no_hours(checkout: Path) -> None:
    done = run(checkout, "--study", "digits", "--setting", "g4-c4")
    assert done.returncode == 0, done.stderr
    assert "Hours need a rate" in done.stdout
    assert "g1-c1" not in done.stdout


IMAGENET = ("--study", "imagenet", "--setting", "condensenet-74-g8", "--images", "1281167,50000")


def test_cores_that_decode_are_told_without_a_rate(checkout: Path) -> None:
    done = run(checkout, *IMAGENET, RAY_ADDRESS="10.0.0.1:6379")
    assert "A core decodes 544 photographs/s (docs/RESULTS.md), so the threads of a worker load 4,352" in done.stdout
    assert "for each 1,000 that it trains it needs 1.8 cores" in done.stdout
    assert "Hours need a rate" in done.stdout


def test_memory_that_is_missing_is_refused_and_gpus_that_are_missing_are_told(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setattr(machine, "usable_memory", lambda: 1_000_000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    command = ["plan", "--study", "digits", "--setting", "g4-c4"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(UserError, match=r"cannot hold it: g4-c4: 2 workers need at least .* MB of memory, and 1 MB"):
        plan.main()
    assert "not checked" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "--set", "ray.use_gpu=true"])
    plan.main()
    assert "no GPU: whether GPUs and their memory suffice is not checked" in capsys.readouterr().out


def test_cores_that_need_not_decode_are_not_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ruamel.yaml import YAML

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    raw = YAML(typ="safe", pure=True).load(checkout / "params.yaml")
    raw["data"].update(source="parquet", path="not-here", image_size=128, augment={"crop": "resized"})
    raw["ray"]["use_gpu"] = True
    raw["settings"] = {name: {"block_depths": [1, 1], "growth_rates": [8, 8]} for name in ("cpu", "gpu")}
    raw["settings"]["gpu"]["train"] = {"gpu_decoding": True}
    loaded, images = params.parse(raw), Images(train=1000, validation=0, test=10, bytes_each=1.0)
    cpu, gpu = (plan_setting(loaded, loaded.settings[name], images, None) for name in ("cpu", "gpu"))
    assert (cpu.gpu_decoding, gpu.gpu_decoding) == (False, True)
    assert plan.loading_notes(loaded, [gpu]) == []
    assert plan.loading_notes(loaded, [gpu, cpu]) == plan.loading_notes(loaded, [cpu])
    assert "A core decodes" in plan.loading_notes(loaded, [cpu])[0]


def test_more_threads_than_cores_are_told(checkout: Path) -> None:
    cores, threads = usable_cores(), 4 * usable_cores()
    done = run(checkout, *IMAGENET, "--set", f"ray.threads_per_worker={threads}", RAY_ADDRESS="")
    assert f"{8 * threads} loading threads on {cores} core" in done.stdout
    assert f"the threads of a worker load {544 * cores / 8:,.0f} images/s" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--images", "5"), "argument --images: '5' is not allowed: two numbers"),
        (("--images-per-s", "0"), "argument --images-per-s: '0' is not allowed: a number above 0"),
        (("--study", "nothing"), "study='nothing' is not allowed"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, str], error: str, checkout: Path) -> None:
    done = run(checkout, *arguments)
    assert done.returncode != 0
    assert error in done.stderr
    assert "Traceback" not in done.stderr
