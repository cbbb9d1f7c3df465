"""Does a tracked study give the same curves again? Train the first epochs of its settings and compare every figure.

    python -m benchmarks.repeat_study --rows benchmarks/results/study-cifar10-short.json --settings g4-c4 random

The rows are those of ``keep_study.py``; recipe and prepared images are those of the study in ``params.yaml``. A curve
holds six digits of each figure. They are equal only on a CPU and with a PyTorch that compute alike; where they are not,
each difference is named, and the exit code is 1.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.keep_study import CURVE, is_recipe
from benchmarks.reporting import parser, start, table, write_rows
from condensenet.config import AugmentConfig
from condensenet.data import PreparedData
from condensenet.models.condensenet import CondenseNet
from condensenet.training import fit
from tasks import outputs, params
from tasks.params import Setting
from tasks.train_worker import as_rows

COLUMNS = ("setting", "epoch", "figure", "tracked", "repeated")
FIELDS = ("study", "setting", "model", "train", "started_at", "data_fingerprint", "curve")
Row = dict[str, Any]


def main() -> None:
    options = arguments()
    loaded = params.load()
    rows = chosen(options.rows, options.settings, options.epochs)
    check_study(rows, loaded.study)
    pairs = [(row, loaded.setting(row["setting"])) for row in rows]
    for row, setting in pairs:
        check_recipe(row, setting)
    data = outputs.read_data(loaded, CondenseNet(pairs[0][1].model))
    for row in rows:
        check_images(row, data)
    torch.set_num_threads(loaded.ray.threads_per_worker)
    different: list[dict[str, Any]] = []
    for row, setting in pairs:
        found = list(differences(row, curve(setting, data, loaded.data.augment, options.epochs)))
        print(f"{setting.name}: {len(found)} differences in {options.epochs} epochs", flush=True)
        different += found
    write_rows(options.json, different)
    if different:
        print(table(different, COLUMNS))
        sys.exit(1)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--rows", type=Path, required=True, metavar="FILE", help="the tracked study")
    options.add_argument("--settings", nargs="+", metavar="NAME", help="default: all that the file has")
    options.add_argument("--epochs", type=int, default=2, help="how many to repeat (default: %(default)s)")
    given = options.parse_args()
    if given.epochs < 1:
        raise ValueError(f"--epochs {given.epochs} is not allowed: 1 or more")
    if given.quick:
        given.epochs = 1
    return given


def chosen(file: Path, names: Sequence[str] | None, epochs: int) -> list[Row]:
    """The rows of the settings in ``names``, or all, each with a curve of at least ``epochs``."""
    kept = json.loads(file.read_text())
    if not isinstance(kept, list) or not kept or not all(isinstance(row, dict) for row in kept):
        raise ValueError(f"--rows {file} is not allowed: it must be a list of rows, as benchmarks.keep_study writes it")
    if absent := [name for name in FIELDS if any(name not in row for row in kept)]:
        raise ValueError(f"--rows {file} is not allowed: rows without {', '.join(absent)}")
    rows = {row["setting"]: row for row in kept}
    for name in names or ():
        if name not in rows:
            raise ValueError(f"--settings {name} is not allowed: {file} has {', '.join(rows)}")
    for name in names or rows:
        check_curve(rows[name], epochs)
    return [rows[name] for name in names or rows]


def check_curve(row: Row, epochs: int) -> None:
    """Raises ``ValueError`` if there are not ``epochs`` to compare, each with all its figures."""
    if epochs > len(row["curve"]):
        raise ValueError(f"--epochs {epochs} is not allowed: the curve of {row['setting']} has {len(row['curve'])}")
    if any(len(epoch) != len(CURVE) for epoch in row["curve"]):
        raise ValueError(
            f"the curve of {row['setting']} does not have {len(CURVE)} figures an epoch: {', '.join(CURVE)}"
        )


def check_study(rows: Sequence[Row], study: str) -> None:
    """Raises ``ValueError`` if a row is of another study than the one in force."""
    if other := sorted({row["study"] for row in rows} - {study}):
        command = f"dvc exp run -S study={other[0]} prepare"
        raise ValueError(f"params.yaml has the study {study}, the rows are of {', '.join(other)} ({command})")


def check_recipe(row: Row, setting: Setting) -> None:
    """Raises ``ValueError`` if the row has another recipe than the study in force."""
    if not is_recipe(row, setting):
        raise ValueError(f"{setting.name}: params.yaml has another recipe than the row of {row['started_at']}")


def check_images(row: Row, data: PreparedData) -> None:
    """Raises ``ValueError`` if the row's images are not those that are prepared."""
    if row["data_fingerprint"] != data.manifest.fingerprint:
        raise ValueError(f"{row['setting']}: other images were prepared than those of the row of {row['started_at']}")


def curve(setting: Setting, data: PreparedData, augment: AugmentConfig, epochs: int) -> list[list[float]]:
    """The first ``epochs`` of the setting's whole schedule, as a row keeps them."""
    torch.manual_seed(setting.train.seed)
    history = fit(CondenseNet(setting.model), data, augment, setting.train)
    rows = as_rows(list(islice(history, epochs)))
    return [[float(row[name]) for name in CURVE] for row in rows]


def differences(row: Row, repeated: Sequence[Sequence[float]]) -> Iterator[dict[str, Any]]:
    """Of the epochs that were repeated, which are the first of the row's."""
    for tracked, new in zip(row["curve"][: len(repeated)], repeated, strict=True):
        for name, old_figure, new_figure in zip(CURVE, tracked, new, strict=True):
            if old_figure != new_figure:
                epoch = int(tracked[0])
                yield dict(zip(COLUMNS, (row["setting"], epoch, name, old_figure, new_figure), strict=True))


if __name__ == "__main__":
    start(main)
