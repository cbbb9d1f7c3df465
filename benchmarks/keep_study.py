"""Keep the results of a study that was run here: a row for each setting, small enough for git.

    python -m benchmarks.keep_study --json benchmarks/results/study-cifar10-short.json

It reads the outputs of the study in params.yaml and what dvc.lock says of them. A setting that was not evaluated here
keeps the row that the file has of it, if it was trained on the same images by the same recipe.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ruamel.yaml import YAML

from benchmarks.reporting import parser, start, write_rows
from tasks import params
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
    old = json.loads(options.json.read_text()) if options.json.exists() else []
    rows = merged(new, old, {result.name: result.setting for result in study.results})
    for name in (result.name for result in study.results if result.name not in rows):
        print(f"{name} was not evaluated: left out")
    write_rows(options.json, list(rows.values()))


def arguments() -> Namespace:
    options = parser(__doc__).parse_args()
    if options.json is None:
        raise ValueError("--json FILE is missing: where to keep the rows")
    return options


def merged(new: Mapping[str, Row], old: Sequence[Row], settings: Mapping[str, params.Setting]) -> dict[str, Row]:
    """The rows by setting, in the order of ``settings``: the new one of each, else the old one if it is comparable."""
    images = {row["data_fingerprint"] for row in new.values()}
    rows = dict(new)
    for row in old:
        name = row["setting"]
        if name in new or name not in settings:
            continue
        if is_recipe(row, settings[name]) and (not images or row["data_fingerprint"] in images):
            rows[name] = row
        else:
            print(f"{name}: the row of {row['started_at']} has another recipe or other images")
    return {name: rows[name] for name in settings if name in rows}


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
    """Configuration, cost, test error, learning curve and DVC's entries of one setting."""
    run, train, evaluation = result.run or {}, result.train or {}, result.evaluation or {}
    own = [f"{stage}@{result.name}" for stage in ("train", "convert", "export", "evaluate")]
    return {
        "study": loaded.study,
        "setting": result.name,
        **recipe(result.setting),
        **{name: result.metrics.get(name) for name in ("test_error_pct", "macs", "params")},
        "test_images": evaluation.get("images"),
        "seconds": train.get("seconds"),
        "started_at": run.get("started_at"),
        "git_commit": run.get("git_commit"),
        "data_fingerprint": (run.get("dataset") or {}).get("fingerprint"),
        "dvc_lock": {stage: entry for stage, entry in locks.items() if stage in ("prepare", *own)},
        "curve": [[epoch[name] for name in CURVE] for epoch in result.history],
    }


if __name__ == "__main__":
    start(main)
