"""Made-up outputs of all stages, as the stages write them, for the tests of the report."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks import paths
from tasks.outputs import write_csv, write_json
from tasks.params import Params, Setting, load
from tasks.report.results import STAGES
from tasks.tracking.desired import dataset, run_params

CPU = "Example CPU @ 2.00GHz"
TEST_IMAGES = 360


def write_study(params: Params, settings: Iterable[str] | None = None, classes: int = 10) -> None:
    """Write the outputs of ``settings`` (default: all in force) below the working folder."""
    write_json(
        params.paths.data / paths.MANIFEST,
        {
            "name": params.study,
            "classes": [f"class {index}" for index in range(classes)],
            "encoding": "raw",
            "image_size": params.data.image_size,
            "channels": 1,
            "mean": [0.3],
            "std": [0.2],
            "fingerprint": "f1" * 32,
            "splits": {"train": 1257, "validation": 180, "test": TEST_IMAGES},
            "source": {"origin": "example.images"},
            "corrupt": [],
        },
    )
    write_json(
        params.paths.yardstick / paths.COST,
        {"model": "mobilenet_v1", "macs": 1_500_000, "paper_flops": 1_600_000, "params": 3_217_226, "file_bytes": 12e6},
    )
    for index, name in enumerate(settings or params.settings):
        write_setting(params, params.settings[name], index, classes)


def write_setting(params: Params, setting: Setting, index: int, classes: int = 10) -> None:
    folder = {stage: params.paths.setting(stage, setting.name) for stage in STAGES}
    write_json(
        folder["train"] / paths.RUN,
        {
            "execution_id": f"{index:032x}",
            "mlflow_run_id": f"{index + 16:032x}",
            "study": params.study,
            "setting": setting.name,
            "started_at": "2026-01-02T03:04:05+00:00",
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "params": run_params(params, setting),
            "dataset": dataset(params),
        },
    )
    history = _history(setting)
    write_csv(folder["train"] / paths.HISTORY, history)
    write_json(folder["train"] / paths.METRICS, _train_metrics(history))
    macs = 1_000_000 // (index + 1)
    write_json(folder["convert"] / paths.COST, _cost(macs))
    write_json(folder["convert"] / paths.KEPT, kept(setting))
    write_json(
        folder["export"] / paths.EXPORT,
        {
            "file_bytes": 400_000 // (index + 1),
            "opset": 18,
            "plan": "portable",
            "images_compared": TEST_IMAGES,
            "max_relative_difference": 3.1e-7,
            "max_absolute_difference": 2e-6,
            "forms": {
                "lowered": {"kept": True, "file_bytes": 400_000 // (index + 1), "max_relative_difference": 3.1e-7},
                "plain": {"kept": True, "file_bytes": 410_000 // (index + 1), "max_relative_difference": 2.9e-7},
                "int8": {"kept": False, "why": "1.50 times", "file_bytes": 9, "max_relative_difference": 0.02},
                "native": {"kept": False, "why": "not compiled"},
            },
        },
    )
    error = {
        "top1_error_pct": 100 * (9 + index) / TEST_IMAGES,
        "top5_error_pct": 100 / TEST_IMAGES,
        "calibration_error_pct": 1.5,
    }
    write_json(
        folder["evaluate"] / paths.METRICS,
        {"images": TEST_IMAGES, "pytorch": error, "onnxruntime": error, "disagreements": 0},
    )
    write_csv(folder["evaluate"] / paths.PER_CLASS, _per_class(classes, index))
    write_json(folder["benchmark"] / paths.LATENCY, _latency(params, index))


def _history(setting: Setting) -> list[dict[str, float]]:
    epochs, stages = setting.train.epochs, setting.model.num_condensing_stages
    rows = []
    for epoch in range(1, epochs + 1):
        done = min(stages, int(2 * stages * epoch / epochs)) if stages else 0
        error = 50 * math.exp(-5 * epoch / epochs)
        rows.append(
            {
                "epoch": epoch,
                "condensing_stage": done,
                "learning_rate": 0.05 * (1 + math.cos(math.pi * epoch / epochs)),
                "train_loss": 0.02 + error / 30,
                "group_lasso": 1.5,
                "train_error_pct": error,
                "validation_loss": 0.1 + error / 30,
                "validation_error_pct": error + 2,
                "kept_pct": 100 * (1 - done / setting.model.condensation_factor),
                "seconds": 1.5,
            }
        )
    return rows


def _train_metrics(history: list[dict[str, float]]) -> dict[str, Any]:
    last = history[-1]
    names = ("train_loss", "train_error_pct", "validation_loss", "validation_error_pct")
    return {
        "epochs": len(history),
        **{name: last[name] for name in names},
        "validation_split": "validation",
        "seconds": 36.0,
        "images_per_second": 850.0,
        "num_workers": 2,
    }


def _cost(macs: int) -> dict[str, Any]:
    grouped = {"macs": macs, "paper_flops": macs + 50_000, "params": macs // 10}
    return {"training": {**grouped, "params": macs // 5}, "grouped": grouped, "max_relative_difference": 2.4e-7}


def kept(setting: Setting) -> dict[str, Any]:
    """Every group keeps 1/C of the inputs, at random."""
    random_ = random.Random(setting.name)
    model, layers = setting.model, []
    for name, in_channels, out_channels in model.learned_convolutions():
        keep = in_channels // model.condensation_factor
        groups = [sorted(random_.sample(range(in_channels), keep)) for _ in range(model.groups_1x1)]
        layers.append(
            {
                "name": name,
                "groups": model.groups_1x1,
                "in_channels": in_channels,
                "out_channels": out_channels,
                "kept": groups,
                "mean_abs_weight": [[round(random_.random(), 4) for _ in group] for group in groups],
            }
        )
    return {"layers": layers}


def _per_class(classes: int, index: int) -> list[dict[str, Any]]:
    return [
        {
            "class": f"class {label}",
            "images": 36,
            "pytorch_error_pct": 100 * ((label + index) % 3) / 36,
            "onnxruntime_error_pct": 100 * ((label + index) % 3) / 36,
        }
        for label in range(classes)
    ]


def _latency(params: Params, index: int) -> dict[str, Any]:
    rows = []
    cases = [(batch, threads) for batch in (1, params.benchmark.throughput_batch) for threads in (1, 2)]
    for form, factor in (("lowered", 1.0), ("plain", 1.5)):
        for batch, threads in cases:
            median = factor * 0.2 * batch / threads * (1 + 0.3 * index)
            yardstick = 0.5 * batch / threads
            rows.append(
                {
                    "form": form,
                    "batch": batch,
                    "threads": threads,
                    "median_ms": median,
                    "p10_ms": 0.95 * median,
                    "p90_ms": 1.1 * median,
                    "yardstick_median_ms": yardstick,
                    "yardstick_p10_ms": 0.97 * yardstick,
                    "yardstick_p90_ms": 1.05 * yardstick,
                    "ratio": median / yardstick,
                    "ratio_p10": 0.9 * median / yardstick,
                    "ratio_p90": 1.1 * median / yardstick,
                    "images_per_second": 1000 * batch / median,
                }
            )
    return {
        "hardware": {"cpu": CPU, "cores": 2, "architecture": "x86_64", "memory_gib": 7.8, "os": "Linux 6.1"},
        "versions": {"python": "3.11.2", "onnxruntime": "1.31.1"},
        "protocol": {"runs": 50, "warmup": 10, "yardstick": "mobilenet_v1", "input_size": [1, 8, 8]},
        "rows": rows,
    }


def digits(checkout: Path) -> Params:
    return load(checkout / "params.yaml")
