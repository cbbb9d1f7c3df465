"""Make the store match the snapshots: oldest first, under a lock, and without ever failing because of the store."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from condensenet.text import escaped
from tasks import outputs, paths, server_addresses
from tasks.console import say
from tasks.errors import UserError
from tasks.tracking import address, desired, snapshots, view
from tasks.tracking.address import Rejected, UnknownRun, Unreachable
from tasks.tracking.snapshots import RESTORED, Snapshot

if TYPE_CHECKING:
    from tasks.tracking.mlflow_store import Store

MAX_REASON = 400  # characters of why the store is unavailable
WAIT_S = 600.0  # of a command, while another process uploads
TICK_S = 0.25  # between two looks for new snapshots by a process that stays at it


@dataclasses.dataclass
class _Memory:
    """What this process remembers of the store."""

    store: Store | None = None
    unreachable: bool = False
    reported: bool = False
    asked_at: float = 0.0
    retry_at: float = 0.0
    seen: dict[str, int] = dataclasses.field(default_factory=dict)  # live snapshot -> time of its history


_memory = _Memory()


def is_unreachable() -> bool:
    """Whether the store did not answer when it was last asked."""
    return _memory.unreachable


def upload(wait_s: float = 0.0, ended: threading.Event | None = None) -> None:
    """Upload all snapshots, and what is new of trainings in progress, unless another process does.

    Says in one line, once, if the store is unavailable. If another process uploads, waits at most ``wait_s`` seconds
    until it has taken everything. With ``ended`` it goes on until then, or until the store is unavailable.
    """
    if time.monotonic() < _memory.retry_at:
        return
    try:
        _upload_pending(wait_s, ended)
    except Unreachable as error:
        _report(error)
        now = time.monotonic()
        _memory.retry_at = now + 10 * (now - _memory.asked_at)  # a server that lets us wait is asked less often


def upload_everything() -> str:
    """What ``python -m tasks.track`` does; returns what to print. Raises ``UserError`` if the store is unavailable."""
    with _store_errors():
        uploaded = _upload_pending(WAIT_S)
    snapshots.tidy()
    return f"{_count(uploaded)} uploaded to {_where()}"


def restore_everything() -> str:
    """Make a run for every execution in ``out/`` that the store does not know; returns what to print."""
    with _store_errors():
        _upload_pending(WAIT_S)  # else what waits would be restored
        store = _store()
        unknown = [run for run in executions() if not store.has_run(run)]
        for run in unknown:
            restore(run, Path.cwd())
        _upload_pending(WAIT_S)
    names = ", ".join(f"{run['study']}/{run['setting']}" for run in unknown)
    return f"restored in {_where()}: {names or 'nothing, all are known'}"


def links(base: str) -> list[str]:
    """A line for every study in the store: where the UI at ``base`` compares its settings."""
    with _store_errors():
        experiments = _store().experiments()
    return [f"{study}: {view.link(base, number)}" for study, number in sorted(experiments.items())]


@contextmanager
def _store_errors() -> Iterator[None]:
    """A store that is unavailable, as a ``UserError``."""
    try:
        yield
    except Unreachable as error:
        waiting = _count(len(snapshots.completed()))
        raise UserError(
            f"{_where()} is unavailable ({_brief(error)}): {waiting} waiting in {snapshots.root()}"
        ) from None


def executions() -> Iterator[dict[str, Any]]:
    """The content of every ``run.json`` in this workspace."""
    for file in sorted(Path().glob(str(paths.StudyPaths("*").setting("train", "*") / paths.RUN))):
        run = outputs.read_json_or_empty(file)
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
    return outputs.read_json_or_empty(folder / paths.RUN).get("execution_id") == run["execution_id"]


def _upload_pending(wait_s: float, ended: threading.Event | None = None) -> int:
    """As ``upload``, but raises ``Unreachable``; returns how many snapshots this process uploaded.

    Whoever lets go of the lock looks for new snapshots afterwards, so what was left to it is not forgotten.
    """
    deadline, uploaded, again = time.monotonic() + wait_s, 0, bool(snapshots.pending() or ended)
    restored: set[str] = set()
    while again:
        with snapshots.locked() as held:
            if held:
                uploaded += _upload_all(_store(), restored)
                while ended and not ended.wait(TICK_S):
                    uploaded += _upload_all(_store(), restored) if snapshots.pending() else 0
        if not held and time.monotonic() < deadline:
            time.sleep(0.1)
        again = bool(snapshots.completed()) and (held or time.monotonic() < deadline)
    return uploaded


def metrics_of(run: Mapping[str, Any]) -> dict[str, float]:
    """The last value of each metric that the store has for an execution; none if it does not know it.

    Raises ``UserError`` if the store cannot be asked.
    """
    try:
        return _store().metrics(run)
    except Unreachable as error:
        raise UserError(f"{_where()} is unavailable ({_brief(error)})") from None


def _upload_all(store: Store, restored: set[str]) -> int:
    """One pass; it ends early at a run that the store does not know, of which a snapshot was put to come first."""
    uploaded, folders = 0, snapshots.pending()
    for folder in folders:
        try:
            snapshot = snapshots.read(folder)
            if snapshots.is_live(folder):
                uploaded += _upload_live(store, snapshot, folder, folders)
            else:
                store.apply(snapshot, folder)
                snapshots.remove(folder)
                uploaded += 1
            if snapshot.stage != RESTORED:
                restored.discard(snapshot.run["execution_id"])
        except UnknownRun:  # made on another machine, or for another store; or deleted
            if snapshot.run["execution_id"] not in restored:
                restored.add(snapshot.run["execution_id"])
                restore(snapshot.run, Path(snapshot.workspace), before_ms=snapshot.time_ms)
                break
            _reject(folder, "its run cannot be made")
        except Rejected as error:
            _reject(folder, error)
    return uploaded


def _upload_live(store: Store, snapshot: Snapshot, folder: Path, folders: Sequence[Path]) -> bool:
    """Upload a training in progress if it went on; whether that was the last of this snapshot.

    A later snapshot of the same training holds all that this one does. One whose folder was removed will not go on.
    """
    training = Path(snapshot.training or "")
    execution = f"-{snapshot.run['execution_id']}-"
    later = [other for other in folders if execution in other.name and other.name > folder.name]
    done = bool(later) or not training.is_dir()
    if not training.is_dir():
        snapshot = dataclasses.replace(snapshot, status="KILLED")
    changed = 0
    with suppress(FileNotFoundError):  # before the first epoch
        changed = (training / paths.HISTORY).stat().st_mtime_ns
    if done or _memory.seen.get(folder.name) != changed:
        snapshots.note_run_id(folder, store.apply(snapshot, folder))
        _memory.seen[folder.name] = changed
    if done:
        snapshots.remove(folder)
    return done


def _reject(folder: Path, reason: object) -> None:
    say(f"tracking: a snapshot was rejected and is kept in {snapshots.set_aside(folder)}: {reason}")


def _store() -> Store:
    uri, _memory.asked_at = address.uri(), time.monotonic()
    if not server_addresses.answers(uri):
        raise Unreachable("nothing listens there")
    if _memory.store is None or _memory.store.uri != uri:
        _memory.seen.clear()
        from tasks.tracking.mlflow_store import Store

        _memory.store = Store(uri)
    _memory.unreachable = False
    return _memory.store


def _report(error: Unreachable) -> None:
    _memory.unreachable = True
    if not _memory.reported:
        _memory.reported = True
        say(
            f"tracking: {_where()} is unavailable ({_brief(error)}); results are kept in {snapshots.root()} "
            "and will be uploaded by the next stage or by: python -m tasks.track"
        )


def _brief(error: Unreachable) -> str:
    """Clients wrap errors in errors: the first words say what it is."""
    return escaped(shorten(server_addresses.without_secrets(str(error)), MAX_REASON, placeholder=" ..."))


def _where() -> str:
    return server_addresses.without_secrets(address.uri())


def _count(number: int) -> str:
    return f"{number} snapshot{'' if number == 1 else 's'}"
