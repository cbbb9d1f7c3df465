"""Stages as processes that start in a hundredth of a second, to be killed from outside at any moment."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import mlflow.onnx  # noqa: F401
import onnxruntime.quantization  # noqa: F401
import torch

import tasks.report.__main__ as report
from tasks import benchmark, convert, evaluate, export, track, yardstick
from tasks.errors import run_main

MAINS = {
    "convert": convert.main,
    "yardstick": yardstick.main,
    "export": export.main,
    "evaluate": evaluate.main,
    "benchmark": benchmark.main,
    "report": report.main,
    "track": track.main,
}

torch.onnx.export(
    torch.nn.ReLU().eval(), (torch.zeros(1),), dynamo=True, verbose=False
)  # imports what it needs: seconds


def run(stage: str, arguments: tuple[str, ...], folder: Path) -> None:
    """``python -m tasks.<stage> <arguments>`` in ``folder``, with temporary files in its ``tmp``."""
    os.chdir(folder)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")
    sys.argv = [stage, *arguments]
    printed = os.open("printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (sys.stdout, sys.stderr):
        os.dup2(printed, standard.fileno())
    run_main(MAINS[stage])
