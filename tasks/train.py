"""train: one setting on Ray Train's workers. An interrupted training resumes from its last checkpoint.

A training in progress has a folder of its own, ``state/train/<study>/<setting>/<fingerprint>/``, named after everything
that decides its weights: parameters, data and code. If all are the same, the training resumes. If any differs, a new
one starts and a message names the difference. The folder is removed once the outputs are written, so ``dvc repro -f``
trains anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from condensenet.data.manifest import Manifest
from condensenet.training.fingerprint import differences, fingerprint
from tasks import locks, outputs, paths, tracking, train_worker
from tasks.console import say
from tasks.errors import UserError, run_main
from tasks.locks import owned
from tasks.outputs import read_json, write_json, write_text
from tasks.params import Params, Setting, stage_arguments
from tasks.train_progress import ProgressRecorder
from tasks.train_stopping import Stopper

FINGERPRINT = "fingerprint.json"
DONE = ".done"  # suffix of a folder that is being removed


def main() -> None:
    params, setting = stage_arguments()
    manifest = read_manifest(params, setting)
    stopper = Stopper()
    with locks.shared_machine():
        train(params, setting, manifest, stopper)


def read_manifest(params: Params, setting: Setting) -> Manifest:
    """The prepared images' manifest; raises ``UserError`` when ``setting`` cannot be trained on them."""
    path = outputs.existing(params.paths.data / paths.MANIFEST, "prepare")
    try:
        manifest = Manifest.load(path)
        manifest.check_model(setting.model)
    except ValueError as error:
        raise UserError(f"settings.{setting.name}: {error}") from None
    batch, images = setting.train.batch_size, manifest.splits["train"]
    if batch > images:
        raise UserError(f"train.batch_size={batch} is not allowed: there are {images} images to train on")
    return manifest


def train(params: Params, setting: Setting, manifest: Manifest, stopper: Stopper | None = None) -> None:
    """Train ``setting``, or resume its training, and write the outputs; raises ``UserError``."""
    identity = fingerprint(setting.model, setting.train, params.data.augment, manifest.fingerprint)
    folder = _folder(params, setting.name, identity)
    with owned(folder):
        _report_others(folder, identity)
        write_json(folder / FINGERPRINT, identity)
        (folder / train_worker.ERROR).unlink(missing_ok=True)
        write_text(folder / train_worker.RESERVE, " " * train_worker.RESERVE_BYTES)
        recorder = ProgressRecorder(folder, params, setting)
        with stopper.training(folder) if stopper else nullcontext():
            _on_ray(folder, params, setting, recorder, stopper)
        tracking.add_environment(folder, recorder.run, read_json(folder / train_worker.ENVIRONMENT))
        metrics = summary(recorder.rows, params, setting, manifest)
        out = params.paths.setting("train", setting.name)
        _write_outputs(folder, out, metrics)
        tracking.record(recorder.run, "train", finished=True)
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


def _folder(params: Params, setting: str, identity: dict[str, Any]) -> Path:
    root = paths.checkout() / params.ray.storage if params.ray.storage else paths.state()
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return root.resolve() / "train" / params.study / setting / digest[:12]


def _on_ray(
    folder: Path, params: Params, setting: Setting, recorder: ProgressRecorder, stopper: Stopper | None
) -> None:
    """Train on Ray's workers; ``recorder`` meanwhile shows and records what they write."""
    from tasks import ray_cluster  # before the recorder's thread imports anything

    job = train_worker.Job(
        folder=folder,
        data=params.paths.data.resolve(),
        model=setting.model,
        train=setting.train,
        augment=params.data.augment,
        threads=params.ray.threads_per_worker,
        use_gpu=params.ray.use_gpu,
    )
    paused, error = folder / train_worker.PAUSED, folder / train_worker.ERROR
    try:
        with recorder, ray_cluster.cluster(params.ray):
            failure = ray_cluster.train(train_worker.run, job, params.ray, folder)
            if stopper and stopper.signal and (paused.exists() or failure) and not error.exists():
                stopper.end()
    except UserError as refusal:  # the cluster is missing or too small, or nothing can be recorded
        _fail(recorder, error.read_text() if error.exists() else str(refusal))
    if error.exists():
        _fail(recorder, error.read_text())
    if failure is not None:
        _fail(recorder, f"training {setting.name} failed: {failure}; run it again to resume from the last checkpoint")


def _fail(recorder: ProgressRecorder, report: str) -> NoReturn:
    if recorder.run:
        with suppress(OSError):  # the disk may be full, which then is the failure to report
            tracking.record_failure(recorder.run, recorder.folder)
    if os.environ.get("CONDENSENET_TRACEBACK"):
        say(report)
    raise UserError(report.partition("\n")[0] or f"training {recorder.setting.name} failed")


def _report_others(folder: Path, identity: dict[str, Any]) -> None:
    """Name the interrupted trainings of this setting that used other parameters, data or code."""
    for path in sorted(folder.parent.glob(f"*/{FINGERPRINT}")):
        if path.parent == folder or path.parent.suffix == DONE:
            continue
        if not any((path.parent / train_worker.CHECKPOINTS).glob("*.pt")):
            continue  # it has no checkpoint, so nothing is lost
        with suppress(OSError, ValueError):  # another process may just have finished it
            different = differences(identity, json.loads(path.read_text()))
            say(f"the interrupted training in {path.parent} is not resumed: {different}; it goes on if that is undone")


def _write_outputs(folder: Path, out: Path, metrics: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in (paths.MODEL, paths.RUN, paths.HISTORY):
        shutil.copyfile(folder / name, out / name)
    write_json(out / paths.METRICS, metrics)


def _remove(folder: Path) -> None:
    """Rename first: a half-removed folder must not be taken for a training in progress."""
    done = folder.with_suffix(DONE)
    shutil.rmtree(done, ignore_errors=True)
    folder.rename(done)
    shutil.rmtree(done, ignore_errors=True)


if __name__ == "__main__":
    run_main(main)
