"""train: one setting on Ray Train's workers. An interrupted training resumes from its last checkpoint.

A training in progress has a folder of its own, ``state/train/<study>/<setting>/<fingerprint>/``, named after everything
that decides its weights: parameters, data and code. If all are the same, the training resumes. If any differs, a new
one starts and a message names the difference. The folder is removed once the outputs are written, so ``dvc repro -f``
trains anew. With ``ray.storage`` it lies there; of an object store the stage brings what it shows to ``state``.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from condensenet.data.manifest import Manifest
from condensenet.files import Folder, write_atomically
from condensenet.training.fingerprint import differences, fingerprint
from tasks import locks, node_data, outputs, paths, tracking, train_worker
from tasks.arguments import stage_arguments
from tasks.console import say
from tasks.errors import UserError, run_main
from tasks.lease import LeaseLost
from tasks.locks import owned
from tasks.object_store import ObjectStore
from tasks.outputs import as_json, read_json, write_json, write_text
from tasks.params import Params, Setting
from tasks.storage import DONE, SharedFolder, check_training_root, training_root
from tasks.train_progress import SHOWN, ProgressRecorder
from tasks.train_stopping import Stopper

FINGERPRINT = "fingerprint.json"


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


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training in progress. The stage's own folder is also what the workers use, unless that is an object store."""

    params: Params
    setting: Setting
    manifest: Manifest

    @property
    def root(self) -> SharedFolder | ObjectStore:
        return training_root(self.params.ray.storage)

    @property
    def others(self) -> SharedFolder | ObjectStore:
        """What holds all trainings of the setting that are in progress, this one too."""
        return self.root.within(f"train/{self.params.study}/{self.setting.name}")

    @property
    def storage(self) -> SharedFolder | ObjectStore:
        return self.others.within(self.digest)

    @property
    def folder(self) -> Path:
        storage = self.storage
        if isinstance(storage, SharedFolder):
            return storage.path
        return paths.state().resolve() / "train" / self.params.study / self.setting.name / self.digest

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def identity(self) -> dict[str, Any]:
        augment = self.params.data.augment
        identity = fingerprint(self.setting.model, self.setting.train, augment, self.manifest.fingerprint)
        if self.initial is None:
            return identity
        return {**identity, "initial": hashlib.sha256(self.initial).hexdigest()}

    @cached_property
    def initial(self) -> bytes | None:
        """The content of the model file to start from. Raises ``UserError`` if it does not fit the setting."""
        return None if self.setting.initial is None else read_initial(self.setting)


def train(params: Params, setting: Setting, manifest: Manifest, stopper: Stopper | None = None) -> None:
    """Train ``setting``, or resume its training, and write the outputs; raises ``UserError``."""
    training = Training(params=params, setting=setting, manifest=manifest)
    storage = training.storage
    check_training_root(params.ray.storage)
    try:
        with (
            owned(training.folder),
            storage.owned(lambda: say(f"waiting for another process that works in {storage}")) as ours,
        ):
            _train(training, ours, stopper)
    except LeaseLost as error:
        raise UserError(f"{error}: run it again to go on once that has ended") from None
    except (ConnectionError, PermissionError) as error:
        if isinstance(storage, SharedFolder):
            raise
        raise UserError(f"ray.storage={params.ray.storage}: {error.strerror or error}") from None


def _train(training: Training, storage: SharedFolder | ObjectStore, stopper: Stopper | None) -> None:
    params, setting, folder = training.params, training.setting, training.folder
    _report_others(training)
    storage.write(FINGERPRINT, as_json(training.identity).encode())
    for place in (Folder(folder), storage):
        place.delete(train_worker.ERROR)
    if isinstance(storage, ObjectStore) and not storage.exists(paths.RUN):
        _forget(folder)  # a stage on another machine has finished what was begun here
    if not (folder / paths.RUN).exists():
        storage.copy_to(folder, paths.RUN)  # of a stage that was killed on another machine
    write_text(folder / train_worker.RESERVE, " " * train_worker.RESERVE_BYTES)
    recorder = ProgressRecorder(folder, storage, params, setting)
    with stopper.training(storage) if stopper else nullcontext():
        _on_ray(training, recorder, stopper)
    for name in (train_worker.ENVIRONMENT, paths.MODEL):
        storage.copy_to(folder, name)
    environment = read_json(folder / train_worker.ENVIRONMENT)
    tracking.add_environment(folder, recorder.run, environment)
    metrics = summary(recorder.rows, environment["processes"], setting, training.manifest)
    out = params.paths.setting("train", setting.name)
    _write_outputs(folder, out, metrics)
    tracking.record(recorder.run, "train", finished=True)
    storage.remove()
    if folder.exists():
        SharedFolder(folder).remove()
    say(f"{out}: validation error {metrics['validation_error_pct']:.2f}% in {metrics['seconds']:.0f} s")


def _forget(folder: Path) -> None:
    """Remove what this machine has of an earlier part of the training."""
    for name in (paths.RUN, paths.HISTORY, paths.MODEL, train_worker.ENVIRONMENT, SHOWN):
        (folder / name).unlink(missing_ok=True)


def summary(
    rows: list[dict[str, float]], workers: int, setting: Setting, manifest: Manifest
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
        "num_workers": workers,
    }


def _job(training: Training) -> train_worker.Job:
    """What the workers are sent; images that they may not see are uploaded."""
    params, storage, root = training.params, training.storage, training.root
    data = params.paths.data.resolve()
    return train_worker.Job(
        folder=training.folder,
        store=storage if isinstance(storage, ObjectStore) else None,
        data=data,
        data_store=node_data.upload(data, training.manifest, root) if isinstance(root, ObjectStore) else None,
        model=training.setting.model,
        train=training.setting.train,
        augment=params.data.augment,
        threads=params.ray.threads_per_worker,
        loader_threads=params.ray.threads_that_load,
        use_gpu=params.ray.use_gpu,
        initial=training.initial,
    )


def read_initial(setting: Setting) -> bytes:
    """The content of the model file that ``setting`` starts from, once it was found to fit; raises ``UserError``."""
    from condensenet.models.storage import parse_model
    from condensenet.training import check_start

    path = paths.checkout() / str(setting.initial)
    try:
        content = path.read_bytes()
        check_start(setting.model, parse_model(content, path))
    except OSError as error:
        raise UserError(f"settings.{setting.name}.initial: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"settings.{setting.name}.initial: {error}") from None
    return content


def _on_ray(training: Training, recorder: ProgressRecorder, stopper: Stopper | None) -> None:
    """Train on Ray's workers; ``recorder`` meanwhile shows and records what they write."""
    from tasks import ray_cluster  # before the recorder's thread imports anything

    params, setting, folder, storage = training.params, training.setting, training.folder, recorder.storage
    error = folder / train_worker.ERROR
    say(f"{setting.name}: starting Ray and its workers")
    try:
        with recorder, ray_cluster.cluster(params.ray):
            job = _job(training)  # the upload may take hours: not before the cluster is known to suffice
            failure = ray_cluster.train(train_worker.run, job, params.ray, job.store or folder)
            storage.copy_to(folder, train_worker.ERROR)
            if stopper and stopper.signal and not error.exists() and (failure or storage.exists(train_worker.PAUSED)):
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
        for line in report.splitlines():
            say(line)
    raise UserError(report.partition("\n")[0] or f"training {recorder.setting.name} failed")


def _report_others(training: Training) -> None:
    """Name the interrupted trainings of this setting that used other parameters, data or code."""
    for name in sorted(training.others.names()):
        other = training.others.within(name)
        if name == training.digest or name.endswith(DONE):
            continue
        if not any(each.endswith(".pt") for each in other.within(train_worker.CHECKPOINTS).names()):
            continue  # it has no checkpoint, so nothing is lost
        with suppress(OSError, ValueError):  # another process may just have finished it
            different = differences(training.identity, json.loads(other.read(FINGERPRINT)))
            say(f"the interrupted training in {other} is not resumed: {different}; it goes on if that is undone")


def _write_outputs(folder: Path, out: Path, metrics: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in (paths.MODEL, paths.RUN, paths.HISTORY):
        write_atomically(out / name, (folder / name).read_bytes())  # not in place: DVC's cache may have the same file
    write_json(out / paths.METRICS, metrics)


if __name__ == "__main__":
    run_main(main)
