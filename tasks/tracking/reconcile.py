"""Make the store match the snapshots: oldest first, under a lock, and without ever failing for the store's sake."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import headline, paths
from tasks.console import say
from tasks.errors import UserError
from tasks.tracking import desired, server, snapshots, view
from tasks.tracking.server import Rejected, UnknownRun, Unreachable
from tasks.tracking.snapshots import RESTORED, Snapshot

if TYPE_CHECKING:
    from tasks.tracking.store import Store


@dataclasses.dataclass
class _Memory:
    """What this process remembers of the store."""

    store: Store | None = None
    unreachable: bool = False
    reported: bool = False
    retry_at: float = 0.0


_memory = _Memory()


def prepare() -> bool:
    """Open the store, which creates a fresh SQLite database. False if it is unavailable."""
    try:
        with snapshots.locked(wait_s=60.0) as held:
            if held:
                _store()
    except Unreachable as error:
        _report(error)
    return not _memory.unreachable


def is_unreachable() -> bool:
    """Whether the store did not answer when it was last asked."""
    return _memory.unreachable


def upload(wait_s: float = 0.0) -> int:
    """Upload all snapshots, and what is new of trainings in progress; returns how many snapshots arrived.

    Says in one line, once, if the store is unavailable. While another process uploads, at most ``wait_s`` seconds
    are spent waiting for it: it looks again for new snapshots after it has let go, so none is forgotten.
    """
    if time.monotonic() < _memory.retry_at:
        return 0
    started = time.monotonic()
    try:
        return _upload_pending(wait_s)
    except Unreachable as error:
        _report(error)
        now = time.monotonic()
        _memory.retry_at = now + 10 * (now - started)  # a server that lets us wait is asked less often
        return 0


def upload_everything(wait_s: float = 600.0) -> str:
    """What ``python -m tasks.track`` does; returns what to print. Raises ``UserError`` if the store is unavailable."""
    where = server.shown(server.uri())
    try:
        uploaded = _upload_pending(wait_s)
    except Unreachable as error:
        waiting = _count(len(snapshots.completed()))
        raise UserError(f"{where} is unavailable ({error}): {waiting} in {snapshots.root()}") from None
    snapshots.tidy()
    return f"{_count(uploaded)} uploaded to {where}"


def restore_everything() -> str:
    """Make a run for every execution in ``out/`` that the store does not know; returns what to print."""
    where = server.shown(server.uri())
    try:
        with snapshots.locked(wait_s=600.0) as held:
            if not held:
                raise UserError("another process has been uploading for ten minutes: try again")
            store = _store()
            unknown = [run for run in executions() if not store.has_run(run)]
        for run in unknown:
            restore(run, Path.cwd())
        _upload_pending(wait_s=600.0)
    except Unreachable as error:
        raise UserError(f"{where} is unavailable ({error})") from None
    names = ", ".join(f"{run['study']}/{run['setting']}" for run in unknown)
    return f"restored in {where}: {names or 'nothing, all are known'}"


def links(base: str) -> list[str]:
    """A line for every study in the store: where the UI at ``base`` compares its settings."""
    try:
        with snapshots.locked(wait_s=60.0) as held:
            experiments = _store().experiments() if held else {}
    except Unreachable as error:
        raise UserError(f"{server.shown(server.uri())} is unavailable ({error})") from None
    return [f"{study}: {view.link(base, number)}" for study, number in sorted(experiments.items())]


def executions() -> Iterator[dict[str, Any]]:
    """The content of every ``run.json`` in this workspace."""
    for file in sorted(Path().glob(str(paths.StudyPaths("*").setting("train", "*") / paths.RUN))):
        run = headline.read(file)
        if {"execution_id", "study", "setting", "started_at"} <= run.keys():
            yield run


def restore(run: Mapping[str, Any], workspace: Path, before_ms: int | None = None) -> None:
    """Put a snapshot of a finished execution, made from all its outputs; of its ``run.json`` alone if they are gone."""
    tags = {"restored_from": str(run.get("mlflow_run_id") or run["execution_id"])}
    if run.get("git_commit"):
        tags["mlflow.source.git.commit"] = run["git_commit"]
    folder = next((folder for folder in (workspace, paths.checkout()) if _holds(folder, run)), None)
    stages = desired.ARTIFACTS if folder else ()
    folder = folder or workspace
    artifacts = [artifact for stage in stages for artifact in desired.outputs(run, stage, folder)]
    history = next((source for source, _ in artifacts if source.name == paths.HISTORY), Path())
    points = [point for points in desired.epochs(history, run["started_at"]).values() for point in points]
    ended_ms = max((point[3] for point in points), default=desired.milliseconds(run["started_at"]))
    snapshot = Snapshot(
        run=run,
        stage=RESTORED,
        time_ms=ended_ms if before_ms is None else min(ended_ms, before_ms - 1),
        workspace=str(folder),
        status="FINISHED",
        tags=tags,
        metrics={name: value for stage in stages for name, value in desired.figures(run, stage, folder).items()},
    )
    snapshots.put(snapshot, artifacts, desired.onnx_model(run, folder) if stages else None)


def _holds(workspace: Path, run: Mapping[str, Any]) -> bool:
    folder = workspace / paths.StudyPaths(run["study"]).setting("train", run["setting"])
    return headline.read(folder / paths.RUN).get("execution_id") == run["execution_id"]


def _upload_pending(wait_s: float) -> int:
    """As ``upload``, but raises ``Unreachable``."""
    uploaded, again = 0, bool(snapshots.pending())
    restored: set[str] = set()
    while again:
        with snapshots.locked(wait_s) as held:
            if not held:
                break
            uploaded += _upload_all(_store(), restored)
        again = bool(snapshots.completed())
    return uploaded


def _upload_all(store: Store, restored: set[str]) -> int:
    """One pass; it ends early at a run that the store does not know, of which a snapshot was put to come first."""
    uploaded, folders = 0, snapshots.pending()
    for folder in folders:
        try:
            snapshot = _as_it_is_now(snapshots.read(folder))
            run_id = store.apply(snapshot, folder)
        except UnknownRun:  # made on another machine, or for another store; or deleted
            if snapshot.run["execution_id"] not in restored:
                restored.add(snapshot.run["execution_id"])
                restore(snapshot.run, Path(snapshot.workspace), before_ms=snapshot.time_ms)
                break
            _reject(folder, "its run cannot be made")
        except (Rejected, ValueError, OSError) as error:  # the latter two: it cannot be read
            _reject(folder, error)
        else:
            if snapshot.status == "RUNNING" and not snapshots.is_superseded(folder, folders):
                snapshots.note_run_id(folder, run_id)
            else:
                snapshots.remove(folder)
                uploaded += 1
    return uploaded


def _reject(folder: Path, reason: object) -> None:
    say(f"tracking: a snapshot was rejected and is kept in {snapshots.set_aside(folder)}: {reason}")


def _as_it_is_now(snapshot: Snapshot) -> Snapshot:
    """An interrupted training whose folder was removed will not go on."""
    if snapshot.training is None or Path(snapshot.training).is_dir():
        return snapshot
    return dataclasses.replace(snapshot, status="KILLED")


def _store() -> Store:
    uri = server.uri()
    if not server.answers(uri):
        raise Unreachable("nothing listens there")
    if _memory.store is None or _memory.store.uri != uri:
        from tasks.tracking.store import Store

        _memory.store = Store(uri)
    _memory.unreachable = False
    return _memory.store


def _report(error: Unreachable) -> None:
    _memory.unreachable = True
    if not _memory.reported:
        _memory.reported = True
        say(
            f"tracking: {server.shown(server.uri())} is unavailable ({error}); results wait in {snapshots.root()} "
            "and go out with the next stage, or by: python -m tasks.track"
        )


def _count(number: int) -> str:
    return f"{number} snapshot{'' if number == 1 else 's'}"
