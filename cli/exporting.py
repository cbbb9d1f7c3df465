"""``condensenet export``: one ONNX file, compared with PyTorch on random images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cli.models import default_size, grouped, pytorch_model
from condensenet import (
    CondenseNet,
    count_cost,
    export_onnx,
    lower,
    measure_plan,
    operator_library,
    portable_plan,
    write_native,
)
from condensenet.deploy.compare import compare_onnx
from tasks.console import say
from tasks.errors import UserError

BATCHES, BATCH_SIZE = 2, 4


def run(name: str, out: Path, form: str, size: int | None, runtime: str, measure: bool) -> None:
    if out.suffix != ".onnx":
        raise UserError(f"{out} is not allowed: the file's name must end in .onnx")
    if out.exists():
        raise UserError(f"{out} exists: remove it first, or choose another name")
    if form == "native" and operator_library() is None:
        raise UserError("--form native is not allowed: the operator was not compiled here (condensenet doctor)")
    if form != "lowered" and (measure or runtime != "onnxruntime"):
        raise UserError("--measure and --runtime go with --form lowered")
    if measure and runtime != "onnxruntime":
        raise UserError(f"--measure is not allowed with --runtime {runtime}: it times ONNX Runtime")
    model = grouped(pytorch_model(name), name)
    side = size or default_size(model)
    if model.preprocessing is not None and side != model.preprocessing.image_size:
        raise UserError(f"--size {side} is not allowed: {name} was trained for {model.preprocessing.image_size}")
    try:
        write(model, out, form, side, runtime, measure)
        difference = compare_onnx(model, out, random_images(model, side))
    except BaseException:
        out.unlink(missing_ok=True)  # a file that was not proved equal is not left lying about
        raise
    say(
        f"{out}: {form}, {out.stat().st_size:,} bytes; largest difference from PyTorch "
        f"{difference.max_relative:.2g} of the largest logit, on {difference.images} random images"
    )


def write(
    model: CondenseNet, out: Path, form: str, size: int, runtime: str = "onnxruntime", measure: bool = False
) -> None:
    """Write ``model``, in grouped form, as one file."""
    metadata = describe(model, size)
    if form == "lowered":
        plan = measure_plan(model, size) if measure else portable_plan(model, size, runtime=runtime)
        lower(model, out, size, plan=plan, metadata=metadata)
    elif form == "native":
        write_native(model, out, size, metadata=metadata)
    else:
        export_onnx(model, out, size, metadata={**metadata, "form": form})


def describe(model: CondenseNet, size: int) -> dict[str, Any]:
    """The file's metadata: what it is, what it costs and how images are prepared, as far as that is known."""
    return {
        "groups_1x1": model.config.groups_1x1,
        "condensation_factor": model.config.condensation_factor,
        **dataclasses.asdict(count_cost(model, size)),
        **(model.preprocessing.as_dict() if model.preprocessing is not None else {}),
    }


def random_images(model: CondenseNet, size: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(BATCHES):
        yield torch.randn(BATCH_SIZE, model.config.in_channels, size, size, generator=generator)
