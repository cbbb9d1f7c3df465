"""The command ``flows.plan``, on the checkout's own studies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.plan", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True)


def test_another_study_is_planned_without_touching_params(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_bytes()
    rate = ("--images-per-s", "1000", "--watts", "500")
    done = run(checkout, "--study", "imagenet", "--images", "1281167,50000", "--set", "train.epochs=2", *rate)
    assert (checkout / "params.yaml").read_bytes() == before
    assert "imagenet: 1,281,167 training and 50,000 test images" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("condensenet-74-g8"))
    assert {"8", "262", "10,008", "1,000"} <= set(row.split())  # workers, MACs, steps, images/s
    assert "Images per second: given by --images-per-s." in done.stdout
    assert "Decoding for 1,000 images/s takes about 2.5 CPU cores a worker, at 395 photographs" in done.stdout
    assert done.returncode == 0 or "error: this machine cannot hold it: disk:" in done.stderr


def test_without_a_rate_there_are_no_hours(checkout: Path) -> None:
    done = run(checkout, "--study", "digits", "--setting", "g4-c4")
    assert done.returncode == 0, done.stderr
    assert "Hours need a rate" in done.stdout
    assert "g1-c1" not in done.stdout


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
