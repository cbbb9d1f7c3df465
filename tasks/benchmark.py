"""benchmark: latency of every form of the exported model, measured alternately with the yardstick on a quiet machine.

Measuring needs ONNX Runtime and NumPy only, no PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from condensenet.deploy import latency
from condensenet.deploy.latency.measure import input_shape, measure_latency
from condensenet.deploy.latency.mobilenet import MOBILENET
from condensenet.deploy.runtime import operator_library
from tasks import locks, outputs, paths, tracking
from tasks.arguments import stage_arguments
from tasks.console import say
from tasks.errors import one_line, run_main
from tasks.params import Params, Setting
from tasks.paths import NATIVE


def main() -> None:
    params, setting = stage_arguments()
    run = outputs.read_run(params, setting)
    with locks.quiet_machine():
        facts = benchmark(params, setting)
    for line in describe(facts):
        say(line)
    with locks.shared_machine():
        tracking.record(run, "benchmark")


def benchmark(params: Params, setting: Setting) -> dict[str, Any]:
    """Write ``latency.json``, whose content is returned."""
    model = outputs.existing(params.paths.form(setting.name, paths.LOWERED), f"export@{setting.name}")
    yardstick = outputs.existing(params.paths.yardstick / paths.ONNX, "yardstick")
    protocol = params.benchmark
    with one_line():
        rows = measure_latency(
            {**available_forms(params, setting), MOBILENET: yardstick},
            yardstick=MOBILENET,
            batch_sizes=(1, protocol.throughput_batch),
            threads=protocol.threads,
            runs=protocol.runs,
            warmup=protocol.warmup,
        )
    facts = latency.as_facts(rows, input_shape(model), protocol.runs, protocol.warmup)
    facts["rows"] = [as_row(row) for row in facts["rows"]]
    outputs.write_json(params.paths.setting("benchmark", setting.name) / paths.LATENCY, facts)
    return facts


def available_forms(params: Params, setting: Setting) -> dict[str, Path]:
    """The files that export kept and this machine can run: the native one needs our operator's library."""
    native = operator_library() is not None
    files = {form: params.paths.form(setting.name, form) for form in paths.ALL_FORMS if form != NATIVE or native}
    return {form: path for form, path in files.items() if path.exists()}


def as_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of ``latency.json``: what was timed is one of the setting's forms."""
    return {"form" if name == "model" else name: value for name, value in row.items()}


def describe(facts: dict[str, Any]) -> Iterator[str]:
    """The machine, then a line per row, and what to do where the machine was not quiet."""
    yield from latency.describe(facts, "form")
    if latency.is_unsteady(facts):
        yield f"to measure again: {'dvc repro -f -s STAGE' if paths.DVC_YAML.exists() else 'run the same command'}"


if __name__ == "__main__":
    run_main(main)
