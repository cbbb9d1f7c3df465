"""``condensenet bench``: a table of models and forms, each timed in turn with MobileNetV1."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.exporting import write
from cli.models import default_size, grouped, pytorch_model, untrained
from cli.names import is_preset
from condensenet import operator_library
from condensenet.deploy.latency.time_files import is_unsteady, time_files
from tasks.console import say
from tasks.errors import UserError


def run(models: Sequence[str], size: int | None, threads: Sequence[int], runs: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        for model in models:
            files |= forms_of(model, size, Path(folder))
        facts = time_files(files, threads=threads, runs=runs)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for line in table(facts):
        say(line)


def forms_of(name: str, size: int | None, folder: Path) -> dict[str, Path]:
    """The ONNX files of one argument by the name that the table gives them; those that are missing are written."""
    if name.endswith(".onnx"):
        if size is not None:
            raise UserError(f"--size is not allowed with {name}: an ONNX file has its own")
        return {name: Path(name)}
    model = untrained(name) if is_preset(name) else grouped(pytorch_model(name), name)
    forms = ("plain", "lowered", *(("native",) if operator_library() else ()))
    files = {f"{name} {form}": folder / f"{len(list(folder.iterdir()))}-{form}.onnx" for form in forms}
    for form, file in zip(forms, files.values(), strict=True):
        write(model, file, form, size or default_size(model))
    return files


def table(facts: Mapping[str, Any]) -> list[str]:
    """The machine, then a line for each model and number of threads."""
    machine, yardstick = facts["hardware"], facts["protocol"]["yardstick"]
    _, height, width = facts["protocol"]["input_size"]
    name_width = max(len(row["model"]) for row in facts["rows"])
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; ONNX Runtime {facts['versions']['onnxruntime']}; "
        f"{height}x{width} pixels, batch 1, median of {facts['protocol']['runs']} runs",
        f"{'model':<{name_width}}  threads        ms   10th to 90th pct   x {yardstick}",
    ]
    for row in facts["rows"]:
        spread = f"{row['p10_ms']:.3f} to {row['p90_ms']:.3f}"
        lines.append(
            f"{row['model']:<{name_width}}  {row['threads']:>7}  {row['median_ms']:>8.3f}   {spread:>16}   "
            f"{row['ratio']:.2f} of {row['yardstick_median_ms']:.3f} ms"
        )
    lines += [f"{name} was not timed: {reason}" for name, reason in facts["skipped"].items()]
    return [*lines, *(["the machine was not quiet: the ratios vary"] if is_unsteady(facts) else [])]
