"""Keep the results of a study that was run here: a row for each setting, small enough for git.

    python -m benchmarks.keep_study --json benchmarks/results/study-cifar10-short.json

It reads the outputs of the study in params.yaml. Settings that were not evaluated yet are left out.
"""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reporting import parser, start, write_rows
from tasks import params
from tasks.report.results import SettingResult, read_study

CURVE = ("epoch", "condensing_stage", "train_loss", "train_error_pct", "validation_error_pct", "kept_pct")


def main() -> None:
    options = arguments()
    study = read_study(params.load())
    rows = [row(study.params, result) for result in study.results if "test_error_pct" in result.metrics]
    for name in (result.name for result in study.results if "test_error_pct" not in result.metrics):
        print(f"{name} was not evaluated: left out")
    write_rows(options.json, rows)


def arguments() -> Namespace:
    options = parser(__doc__).parse_args()
    if options.json is None:
        raise ValueError("--json FILE is missing: where to keep the rows")
    return options


def row(loaded: params.Params, result: SettingResult) -> dict[str, Any]:
    """Configuration, cost, test error and learning curve of one setting."""
    run, train, evaluation = result.run or {}, result.train or {}, result.evaluation or {}
    return {
        "study": loaded.study,
        "setting": result.name,
        "model": dataclasses.asdict(result.setting.model),
        "train": dataclasses.asdict(result.setting.train),
        **{name: result.metrics.get(name) for name in ("test_error_pct", "macs", "params")},
        "test_images": evaluation.get("images"),
        "seconds": train.get("seconds"),
        "started_at": run.get("started_at"),
        "git_commit": run.get("git_commit"),
        "data_fingerprint": (run.get("dataset") or {}).get("fingerprint"),
        "curve": [[epoch[name] for name in CURVE] for epoch in result.history],
    }


if __name__ == "__main__":
    start(main)
