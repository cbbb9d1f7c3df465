"""Mirror to MLflow what the stages make: written to an outbox on disk first, delivered when the store answers.

A stage calls ``record``; it never fails for the tracking store's sake. One MLflow run is one real execution of
training: ``train`` calls ``start_execution`` and writes what it returns as ``run.json``, the stages that follow read
that file and add to the same run, also when DVC restored it from its cache.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.console import say
from tasks.errors import UserError
from tasks.params import Params, Setting
from tasks.tracking import contents, outbox, server
from tasks.tracking.contents import dvc_tags, final_metrics
from tasks.tracking.store import Away, Refused, Store

__all__ = ["deliver", "deliver_everything", "dvc_tags", "final_metrics", "initialise", "record", "start_execution"]

START_WAIT_S = 20.0  # a starting execution waits this long for another process that delivers, to learn its run's id


class _Process:
    """What this process remembers of the store."""

    store: Store | None = None
    said: bool = False
    retry_at: float = 0.0


def start_execution(params: Params, setting: Setting) -> dict[str, Any]:
    """Begin an execution of ``setting``: the content of ``run.json``, its MLflow run made if the store answers.

    Logs the parameters, the commit and the dataset too. A training that resumes keeps what the first one got.
    """
    now = time.time()
    run: dict[str, Any] = {
        "execution_id": uuid.uuid4().hex,
        "mlflow_run_id": None,
        "study": params.study,
        "setting": setting.name,
        "started_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        "git_commit": contents.git_commit(),
    }
    outbox.put(
        run["execution_id"],
        {
            "run": run,
            "stage": "start",
            "time_ms": round(1000 * now),
            "workspace": str(Path.cwd()),
            "params": contents.run_params(params, setting),
            "tags": contents.run_tags(setting, run["git_commit"]),
            "dataset": contents.dataset(params),
        },
    )
    deliver(START_WAIT_S)
    if _Process.store is not None:
        run["mlflow_run_id"] = _Process.store.known_run(run["execution_id"])
    return run


def record(
    run: Mapping[str, Any],
    stage: str,
    *,
    params: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    step: int | None = None,
    tags: Mapping[str, object] | None = None,
    artifacts: Sequence[tuple[Path, str]] = (),
    onnx_model: Path | None = None,
    dataset: Mapping[str, str] | None = None,
    finished: bool = False,
    failed: bool = False,
) -> None:
    """Add to the run of the execution that ``run`` (the content of ``run.json``) names.

    ``step`` is the epoch, counted from 1; left out: the last epoch of the run. ``artifacts`` are pairs of a file or
    folder and the artifact folder it goes to ("" for the top). ``dataset`` has name, fingerprint and source.
    A record of stage "train" sets the run's status to RUNNING, ``finished`` and ``failed`` set what they say.
    """
    kept = [(Path(source), f"{index}/{Path(source).name}") for index, (source, _) in enumerate(artifacts)]
    listed = [{"kept": str(index), "folder": folder} for index, (_, folder) in enumerate(artifacts)]
    if onnx_model is not None:
        kept.append((Path(onnx_model), "onnx/model.onnx"))
    status = "FAILED" if failed else "FINISHED" if finished else "RUNNING" if stage == "train" else None
    outbox.put(
        run["execution_id"],
        {
            "run": dict(run),
            "stage": stage,
            "time_ms": round(1000 * time.time()),
            "workspace": str(Path.cwd()),
            "params": {name: str(value) for name, value in (params or {}).items()},
            "metrics": {name: float(value) for name, value in (metrics or {}).items() if value is not None},
            "step": step,
            "tags": {name: str(value) for name, value in (tags or {}).items()},
            "artifacts": listed,
            "onnx_model": None if onnx_model is None else "onnx/model.onnx",
            "dataset": None if dataset is None else dict(dataset),
            "status": status,
        },
        kept,
    )
    deliver()


def initialise() -> None:
    """Make the store ready before several processes use it at once: a fresh SQLite file takes only one maker."""
    try:
        with outbox.locked(wait_s=60.0) as held:
            if held:
                _store()
    except Away as error:
        _say_away(error)


def deliver(wait_s: float = 0.0) -> int:
    """Send all records that wait; returns how many arrived. Says in one line, once, if the store does not answer.

    While another process delivers, at most ``wait_s`` seconds are spent waiting for it: it looks again for new
    records after it has let go, so what is left to it is not forgotten.
    """
    if time.monotonic() < _Process.retry_at:
        return 0
    started = time.monotonic()
    try:
        return deliver_or_raise(wait_s)
    except Away as error:
        _say_away(error)
        now = time.monotonic()
        _Process.retry_at = now + 10 * (now - started)  # a server that lets us wait is asked less often
        return 0


def deliver_or_raise(wait_s: float = 0.0) -> int:
    """As ``deliver``, but raises ``Away`` with one line if the store does not answer."""
    delivered = 0
    while outbox.pending():
        with outbox.locked(wait_s) as held:
            if not held:
                break
            delivered += _send_all()
    return delivered


def deliver_everything(wait_s: float = 600.0) -> str:
    """What ``python -m tasks.track`` does; returns what to print. Raises ``UserError`` if the store does not answer."""
    try:
        delivered = deliver_or_raise(wait_s)
    except Away as error:
        waiting = len(outbox.pending())
        raise UserError(f"{server.shown(server.uri())} does not answer ({error}): {waiting} records wait") from None
    return f"{delivered} records delivered to {server.shown(server.uri())}"


def _send_all() -> int:
    store, delivered = _store(), 0
    while records := outbox.pending():
        for folder in records:
            try:
                store.apply(outbox.read(folder), folder)
            except (Refused, ValueError) as error:
                say(f"tracking: a record was refused and is kept in {outbox.set_aside(folder)}: {error}")
            else:
                outbox.remove(folder)
                delivered += 1
    return delivered


def _store() -> Store:
    """The store in force, opened; raises ``Away``."""
    uri = server.uri()
    if not server.answers(uri):
        raise Away("connection refused")
    if _Process.store is None or _Process.store.uri != uri:
        _Process.store = Store.open(uri)
    return _Process.store


def _say_away(error: Away) -> None:
    if not _Process.said:
        _Process.said = True
        say(
            f"tracking: {server.shown(server.uri())} does not answer ({error}); results wait in "
            f"{outbox.root()} and go out with the next stage, or by: python -m tasks.track"
        )
