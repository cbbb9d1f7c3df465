"""benchmark: the latency of every form of the exported model, all in turn with the yardstick, on a quiet machine.

What it measures with needs ONNX Runtime and NumPy alone, no PyTorch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from condensenet.latency import input_shape, measure_latency, versions
from condensenet.machine import hardware
from condensenet.native import library
from tasks import files, inputs, machine, paths, tracking
from tasks.console import say
from tasks.errors import run_main
from tasks.params import Params, Setting
from tasks.paths import NATIVE
from tasks.tracking.contents import latency_metrics

YARDSTICK = "mobilenet_v1"
UNSTEADY = 2.0  # a ratio's 90th percentile this many times its 10th: other work was on the machine


def main() -> None:
    params, setting = inputs.stage_arguments()
    run = inputs.read_run(params, setting)
    with machine.exclusive():
        facts = benchmark(params, setting)
    for line in describe(facts):
        say(line)
    path = params.paths.setting("benchmark", setting.name) / paths.LATENCY
    with machine.shared():
        tracking.record(run, "benchmark", metrics=latency_metrics(facts), artifacts=[(path, "benchmark")])


def benchmark(params: Params, setting: Setting) -> dict[str, Any]:
    """Write ``latency.json``, whose content is returned."""
    model = inputs.existing(params.paths.form(setting.name, paths.LOWERED), f"export@{setting.name}")
    yardstick = inputs.existing(params.paths.yardstick / paths.ONNX, "yardstick")
    protocol = params.benchmark
    with inputs.one_line():
        rows = measure_latency(
            {**forms_at_hand(params, setting), YARDSTICK: yardstick},
            yardstick=YARDSTICK,
            batch_sizes=(1, protocol.throughput_batch),
            threads=protocol.threads,
            runs=protocol.runs,
            warmup=protocol.warmup,
        )
    facts = {
        "hardware": hardware(),
        "versions": versions(),
        "protocol": {
            "runs": protocol.runs,
            "warmup": protocol.warmup,
            "yardstick": YARDSTICK,
            "input_size": list(input_shape(model)),
            "order": "the forms in turn, each right after a run of the yardstick",
            "spinning": False,
        },
        "rows": [as_row(dataclasses.asdict(row)) for row in rows],
    }
    files.write_json(params.paths.setting("benchmark", setting.name) / paths.LATENCY, facts)
    return facts


def forms_at_hand(params: Params, setting: Setting) -> dict[str, Path]:
    """The files that export kept and this machine can run: the native one needs our operator's library."""
    native = library() is not None
    found = {form: params.paths.form(setting.name, form) for form in paths.ALL_FORMS if form != NATIVE or native}
    return {form: path for form, path in found.items() if path.exists()}


def as_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of ``latency.json``: what was timed is one of the setting's forms."""
    return {"form": row.pop("model"), **row}


def describe(facts: dict[str, Any]) -> Iterator[str]:
    """The machine, then a line a row: no latency is printed without what it was taken on and in turn with."""
    found, runtime = facts["hardware"], facts["versions"]["onnxruntime"]
    yield (
        f"{found['cpu']}, {found['cores']} cores, {found['os']}, ONNX Runtime {runtime}: "
        f"median of {facts['protocol']['runs']} runs (10th to 90th percentile)"
    )
    for row in facts["rows"]:
        yield (
            f"{row['form']}, batch {row['batch']}, threads {row['threads']}: {row['median_ms']:.3f} ms "
            f"({row['p10_ms']:.3f} to {row['p90_ms']:.3f}), {row['ratio']:.2f} times {YARDSTICK}'s "
            f"{row['yardstick_median_ms']:.3f} ms ({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f})"
        )
    if any(row["ratio_p90"] > UNSTEADY * row["ratio_p10"] for row in facts["rows"]):
        yield "the machine was not quiet, as the spread of the ratios shows: to measure again, dvc repro -f -s STAGE"


if __name__ == "__main__":
    run_main(main)
