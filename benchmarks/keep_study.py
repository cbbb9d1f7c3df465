"""Keep the results of a study that was run here: a row for each setting, small enough for git.

    python -m benchmarks.keep_study --json benchmarks/results/study-cifar10-short.json

It reads the outputs of the study in params.yaml and what dvc.lock says of them. A setting that was not evaluated here
keeps the row that the file has of it. No row is ever lost: a file with rows of another study, other images or another
recipe stays as it is.
"""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.reporting import parser, read_rows, start, write_rows
from tasks import params
from tasks.report.origin import other_training
from tasks.report.results import SettingResult, read_study

Row = dict[str, Any]
LOCK = Path("dvc.lock")
CURVE = ("epoch", "condensing_stage", "train_loss", "train_error_pct", "validation_error_pct", "kept_pct")


def main() -> None:
    options = arguments()
    study = read_study(params.load())
    locks = YAML(typ="safe").load(LOCK) if LOCK.exists() else {}
    new = {
        result.name: row(study.params, result, locks.get("stages", {}))
        for result in study.results
        if "test_error_pct" in result.metrics
    }
    for result in study.results:
        if result.name in new and (why := next(other_training(study, result), None)):
            raise ValueError(f"{result.name} cannot be kept: {why}")
    if not new:
        raise ValueError(f"no setting of {study.params.study} is evaluated yet: run dvc repro evaluate@SETTING")
    old = read_rows(options.json) if options.json.exists() else []
    if foreign := foreign_rows(old, study.params, new):
        raise ValueError(f"{options.json} has rows of other runs and would lose them: {foreign}; give another file")
    rows = merged(new, old, study.params.settings)
    for name in (result.name for result in study.results if result.name not in rows):
        print(f"{name} was not evaluated: left out")
    write_rows(options.json, list(rows.values()))


def arguments() -> Namespace:
    options = parser(__doc__, quick=False).parse_args()
    if options.json is None:
        raise ValueError("--json FILE is missing: where to keep the rows")
    return options


def foreign_rows(old: Sequence[Row], loaded: params.Params, new: Mapping[str, Row]) -> str:
    """Each row of ``old`` that cannot stand beside those of ``new``, and why; empty if all can."""
    images = {row["data_fingerprint"] for row in new.values()}
    why = {}
    for row in old:
        name = row["setting"]
        if row["study"] != loaded.study:
            why[name] = f"of study {row['study']}"
        elif name not in loaded.settings:
            why[name] = "not in params.yaml"
        elif not is_recipe(row, loaded.settings[name]):
            why[name] = "another recipe"
        elif row["data_fingerprint"] not in images:
            why[name] = "other images"
    return ", ".join(f"{name} ({reason})" for name, reason in why.items())


def merged(new: Mapping[str, Row], old: Sequence[Row], order: Iterable[str]) -> dict[str, Row]:
    """The rows by setting: the new one of each, else the old one."""
    rows = {row["setting"]: row for row in old} | dict(new)
    return {name: rows[name] for name in order if name in rows}


def is_recipe(row: Row, setting: params.Setting) -> bool:
    """Whether ``row`` is of this recipe, as far as it knows its fields: there may be new ones."""
    return all(
        recipe(setting)[part].get(key) == value for part in ("model", "train") for key, value in row[part].items()
    )


def recipe(setting: params.Setting) -> Row:
    """As in a JSON file."""
    configuration = {"model": dataclasses.asdict(setting.model), "train": dataclasses.asdict(setting.train)}
    plain: Row = json.loads(json.dumps(configuration))
    return plain


def row(loaded: params.Params, result: SettingResult, locks: Mapping[str, Any]) -> Row:
    """Configuration, cost, test error, latency, learning curve and DVC's entries of one setting."""
    run, train, evaluation = result.run or {}, result.train or {}, result.evaluation or {}
    own = [f"{stage}@{result.name}" for stage in ("train", "convert", "export", "evaluate")]
    return {
        "study": loaded.study,
        "setting": result.name,
        **recipe(result.setting),
        **{name: result.metrics.get(name) for name in ("test_error_pct", "macs", "params")},
        "test_images": evaluation.get("images"),
        "latency": latency(result),
        "seconds": train.get("seconds"),
        "started_at": run.get("started_at"),
        "git_commit": run.get("git_commit"),
        "data_fingerprint": (run.get("dataset") or {}).get("fingerprint"),
        "dvc_lock": {stage: entry for stage, entry in locks.items() if stage in ("prepare", *own)},
        "curve": [[epoch[name] for name in CURVE] for epoch in result.history],
    }


def latency(result: SettingResult) -> Row | None:
    """Of the file that ships, at batch 1 on one thread, beside MobileNetV1's; None if it was not timed."""
    timed = result.latency_row()
    return None if timed is None or result.latency is None else {"device": result.latency["hardware"]["cpu"], **timed}


if __name__ == "__main__":
    start(main)
