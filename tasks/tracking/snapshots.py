"""Snapshots of what stages made, on disk until the tracking store has them. Nothing here imports MLflow.

``state/tracking/<time in ms>-<execution id>-<stage>-<unique>/`` holds ``snapshot.json``, copies of the files under
``artifacts/`` as the MLflow run will hold them, and the exported model. Copies, so a stage that runs again cannot
change what an earlier run made. The snapshot of a training in progress, its stage is "live", names the training's
folder instead, where ``history.csv`` grows. A folder without a leading dot is complete.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condensenet.file_locks import lock, try_lock
from condensenet.files import write_atomically
from tasks import paths
from tasks.tracking.address import Rejected

SNAPSHOT = "snapshot.json"
ARTIFACTS = "artifacts"
ONNX = "onnx"
RUN_ID = "run_id"  # in a live snapshot: the MLflow run, once there is one
LIVE, TRAIN, RESTORED, TABLES, SWEEP_STAGE, STUDY = "live", "train", "restored", "tables", "sweep", "study"
WHOLE = (LIVE, TRAIN, RESTORED, TABLES, SWEEP_STAGE, STUDY)  # a run can be made from them; later stages add to one
REJECTED = ".rejected"
DRAFT = ".draft-"
GRACE_S = 3600.0  # since anything in a draft was written
DRAFTING = ".drafting"  # a file that is locked by all who make snapshots, or by one who tidies


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of an execution after a stage; ``run`` is the content of ``run.json``."""

    run: Mapping[str, Any]
    stage: str
    time_ms: int
    workspace: str  # absolute: where the stage ran
    status: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the trained model
    training: str | None = None  # the folder of a training in progress, absolute
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # execution -> sha256 and card of its file
    aliases: Mapping[str, str] = field(default_factory=dict)  # in the registry -> the execution that they name


def root() -> Path:
    return paths.state() / "tracking"


def put(snapshot: Snapshot, artifacts: Sequence[tuple[Path, str]] = (), onnx_model: Path | None = None) -> Path:
    """Keep ``snapshot`` with copies of its files; returns its folder.

    ``artifacts`` are pairs of a file or folder and the artifact folder it goes to ("" for the top).
    """
    unique = uuid.uuid4().hex
    draft = root() / f"{DRAFT}{unique}"
    root().mkdir(parents=True, exist_ok=True)
    tidy()
    with open(root() / DRAFTING, "a+") as file:
        lock(file, shared=True)
        draft.mkdir()
        try:
            for source, target in artifacts:
                _copy(source, draft / ARTIFACTS / target / source.name)
            if onnx_model is not None:
                _copy(onnx_model, draft / ONNX / paths.ONNX)
            write_atomically(draft / SNAPSHOT, json.dumps(dataclasses.asdict(snapshot), indent=1).encode())
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)  # a full disk needs the room
            raise
        name = f"{snapshot.time_ms:013d}-{snapshot.run['execution_id']}-{snapshot.stage}-{unique}"
        return draft.rename(root() / name)


def pending() -> list[Path]:
    """The folders of all snapshots, oldest first."""
    if not root().is_dir():
        return []
    return sorted(folder for folder in root().iterdir() if folder.is_dir() and not folder.name.startswith("."))


def completed() -> list[Path]:
    """As ``pending``, without trainings in progress: what the store is to take once and for all."""
    return [folder for folder in pending() if not is_live(folder)]


def is_live(folder: Path) -> bool:
    return f"-{LIVE}-" in folder.name


def read(folder: Path) -> Snapshot:
    """Raises ``Rejected`` if it cannot be read."""
    try:
        return Snapshot(**json.loads((folder / SNAPSHOT).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise Rejected(f"{SNAPSHOT} cannot be read: {error}") from None


def history(folder: Path, snapshot: Snapshot) -> Path:
    """The ``history.csv`` of a snapshot that holds a training."""
    return Path(snapshot.training or folder / ARTIFACTS / TRAIN) / paths.HISTORY


def remove(folder: Path) -> None:
    """In one step: after a kill all of it is there, or nothing."""
    done = folder.with_name(f"{DRAFT}{uuid.uuid4().hex}")
    folder.rename(done)
    shutil.rmtree(done, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Keep a snapshot that the store will never take out of the way of the others; returns where it is."""
    aside = root() / REJECTED / folder.name
    aside.parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(aside)


def note_run_id(folder: Path, run_id: str) -> None:
    """For the stage that waits to learn it."""
    if not (folder / RUN_ID).exists():
        write_atomically(folder / RUN_ID, run_id.encode())


def noted_run_id(execution_id: str) -> str | None:
    """The MLflow run of a training in progress, None if it is not known yet."""
    for file in sorted(root().glob(f"*-{execution_id}-{LIVE}-*/{RUN_ID}"), reverse=True):
        with suppress(FileNotFoundError):  # superseded just now
            return file.read_text()
    return None


def tidy() -> None:
    """Remove what killed processes left behind, unless another process is making a snapshot just now.

    Where another machine's locks are not seen, as on some shared file systems, its living drafts are seen to be new.
    """
    if not root().is_dir():
        return
    with open(root() / DRAFTING, "w") as file:
        if try_lock(file):
            for folder in root().glob(f"{DRAFT}*"):
                with suppress(OSError):  # it has just got its name, or been removed
                    if time.time() - _changed(folder) > GRACE_S:
                        shutil.rmtree(folder, ignore_errors=True)


def _changed(folder: Path) -> float:
    """When the newest of all that is in it was written."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


@contextmanager
def locked() -> Iterator[bool]:
    """Be the one process that uploads; yields False if another is."""
    root().mkdir(parents=True, exist_ok=True)
    with open(root() / ".lock", "w") as file:
        yield try_lock(file)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
