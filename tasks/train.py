"""Train: one setting on Ray Train's workers, with checkpoints that an interrupted run goes on from.

A training in progress has a folder of its own, ``state/train/<study>/<setting>/<fingerprint>/``, named for all that
decides its weights. The same parameters find it again and resume; others begin their own. It is removed when the
outputs are written, so ``dvc repro -f`` trains anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from condensenet.data.manifest import Manifest, from_json
from condensenet.recipe import recipe
from tasks import inputs, machine, paths, tracking, train_worker
from tasks.console import say
from tasks.errors import UserError, run_main
from tasks.files import owned, write
from tasks.params import Params, Setting
from tasks.train_follow import Follower

RECIPE = "recipe.json"
DONE = ".done"  # suffix of a folder that is being removed


def main() -> None:
    params, setting = inputs.stage_arguments()
    manifest = read_manifest(params, setting)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    with machine.shared():
        train(params, setting, manifest)


def read_manifest(params: Params, setting: Setting) -> Manifest:
    """The prepared images' manifest; raises ``UserError`` when ``setting`` cannot be trained on them."""
    path = inputs.existing(params.paths.data / paths.MANIFEST, "prepare")
    try:
        manifest = from_json(path.read_text(), path)
        manifest.check_model(setting.model)
    except ValueError as error:
        raise UserError(f"settings.{setting.name}: {error}") from None
    batch, workers = setting.train.batch_size, params.ray.num_workers
    if batch % workers:
        raise UserError(f"train.batch_size={batch} is not allowed: it must be divisible by ray.num_workers={workers}")
    if batch > manifest.splits["train"]:
        raise UserError(f"train.batch_size={batch} is not allowed: there are {manifest.splits['train']} images")
    return manifest


def train(params: Params, setting: Setting, manifest: Manifest) -> None:
    """Train ``setting`` or go on with it, and write its outputs; raises ``UserError``."""
    whole = recipe(setting.model, setting.train, params.data.augment, manifest.fingerprint)
    folder = _folder(params, setting.name, whole)
    with owned(folder):
        _tell_of_others(folder, whole)
        write(folder / RECIPE, json.dumps(whole, indent=1) + "\n")
        (folder / train_worker.ERROR).unlink(missing_ok=True)
        follower = Follower(folder, params, setting)
        _on_ray(folder, params, setting, follower)
        metrics = summary(follower.rows, params, setting, manifest)
        out = params.paths.setting("train", setting.name)
        _write_outputs(folder, out, metrics)
        tracking.record(
            follower.run,
            "train",
            metrics={
                "train_seconds": float(metrics["seconds"]),
                "images_per_second": float(metrics["images_per_second"]),
            },
            artifacts=[(out / paths.MODEL, "checkpoint"), (out / paths.HISTORY, "train")],
            finished=True,
        )
        _remove(folder)
    say(f"{out}: validation error {metrics['validation_error_pct']:.2f}% in {metrics['seconds']:.0f} s")


def summary(
    rows: list[dict[str, float]], params: Params, setting: Setting, manifest: Manifest
) -> dict[str, int | float | str]:
    """The content of ``metrics.json``: the last epoch's figures and the speed over all."""
    last, seconds = rows[-1], sum(row["seconds"] for row in rows)
    steps = manifest.splits["train"] // setting.train.batch_size * len(rows)
    names = ("train_loss", "train_error_pct", "validation_loss", "validation_error_pct")
    return {
        "epochs": len(rows),
        **{name: last[name] for name in names},
        "validation_split": "validation" if manifest.splits["validation"] else "test",
        "seconds": round(seconds, 3),
        "images_per_second": round(steps * setting.train.batch_size / seconds, 1),
        "num_workers": params.ray.num_workers,
    }


def _folder(params: Params, setting: str, whole_recipe: dict[str, Any]) -> Path:
    root = paths.checkout() / params.ray.storage if params.ray.storage else paths.state()
    digest = hashlib.sha256(json.dumps(whole_recipe, sort_keys=True).encode()).hexdigest()
    return root.resolve() / "train" / params.study / setting / digest[:12]


def _on_ray(folder: Path, params: Params, setting: Setting, follower: Follower) -> None:
    """Train on Ray's workers; ``follower`` meanwhile shows and records what they write."""
    from tasks import ray_cluster  # before the follower's thread imports anything itself

    job = train_worker.Job(
        folder=folder,
        data=params.paths.data.resolve(),
        model=setting.model,
        train=setting.train,
        augment=params.data.augment,
        threads=params.ray.threads_per_worker,
        use_gpu=params.ray.use_gpu,
    )
    try:
        with follower, ray_cluster.cluster(params.ray):
            failure = ray_cluster.train(train_worker.run, job, params.ray, folder)
    except UserError as refusal:  # by the cluster, which is not there or too small
        _fail(follower, str(refusal))
    error = folder / train_worker.ERROR
    if error.exists():
        _fail(follower, error.read_text())
    if failure is not None:
        _fail(follower, f"training {setting.name} failed: {failure}; run it again to go on from the last checkpoint")


def _fail(follower: Follower, report: str) -> NoReturn:
    if follower.run:
        tracking.record(follower.run, "train", failed=True)
    if os.environ.get("CONDENSENET_TRACEBACK"):
        say(report)
    raise UserError(report.splitlines()[0])


def _tell_of_others(folder: Path, whole_recipe: dict[str, Any]) -> None:
    """Name the trainings of this setting that were interrupted under other parameters."""
    for path in sorted(folder.parent.glob(f"*/{RECIPE}")):
        if path.parent == folder or path.parent.suffix == DONE:
            continue
        other = json.loads(path.read_text())
        names = sorted(name for name in whole_recipe.keys() | other.keys() if whole_recipe.get(name) != other.get(name))
        differences = "; ".join(f"{name} was {other.get(name)}, is {whole_recipe.get(name)}" for name in names)
        say(f"an interrupted training with other parameters is left in {path.parent} ({differences})")


def _write_outputs(folder: Path, out: Path, metrics: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in (paths.MODEL, paths.RUN, paths.HISTORY):
        shutil.copyfile(folder / name, out / name)
    write(out / paths.METRICS, json.dumps(metrics, indent=1) + "\n")


def _remove(folder: Path) -> None:
    """All at once: what is half removed must not be taken for a training in progress."""
    done = folder.with_suffix(DONE)
    shutil.rmtree(done, ignore_errors=True)
    folder.rename(done)
    shutil.rmtree(done, ignore_errors=True)


def _stop(number: int, _frame: object) -> NoReturn:
    """End at once, also in the midst of a call into Ray, which would not let an exception through.

    Nothing is lost but the steps since the last checkpoint: files are whole or not there.
    """
    say("stopped: the training goes on from its last checkpoint when it is run again")
    if "tasks.ray_cluster" in sys.modules:
        sys.modules["tasks.ray_cluster"].abandon()
    os._exit(128 + number)


if __name__ == "__main__":
    run_main(main)
