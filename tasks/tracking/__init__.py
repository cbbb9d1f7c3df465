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
from typing import TYPE_CHECKING, Any

from tasks.headline import final_metrics
from tasks.tracking import contents, delivery, outbox, server
from tasks.tracking.attending import courier
from tasks.tracking.contents import dvc_tags
from tasks.tracking.delivery import deliver

if TYPE_CHECKING:  # importing them imports torch, which delivering does not need
    from tasks.params import Params, Setting

__all__ = ["courier", "deliver", "dvc_tags", "final_metrics", "initialise", "record", "start_execution"]

START_WAIT_S = 60.0  # a starting execution waits this long for another process that delivers, to learn its run's id


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
        "params": contents.run_params(params, setting),
        "dataset": contents.dataset(params),
    }
    start = {
        "run": run,
        "stage": "start",
        "time_ms": round(1000 * now),
        "workspace": str(Path.cwd()),
        "params": run["params"],
        "tags": contents.run_tags(params, setting, run["git_commit"]),
        "dataset": run["dataset"],
    }
    outbox.put(run["execution_id"], start)
    _hand_over(START_WAIT_S)
    run["mlflow_run_id"] = _run_id(run["execution_id"])
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

    ``step`` is the epoch, counted from 1; left out: the metrics are of the trained model. ``artifacts`` are pairs of
    a file or folder and the artifact folder it goes to ("" for the top). ``dataset`` has name, fingerprint, source.
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
    _hand_over()


def initialise() -> None:
    """Make the store ready before several processes use it at once: a fresh SQLite file takes only one maker."""
    if not outbox.attended():  # the courier opened it before it went on duty
        delivery.prepare()


def _hand_over(wait_s: float = 0.0) -> None:
    if not outbox.attended():
        delivery.deliver(wait_s)


def _run_id(execution_id: str) -> str | None:
    """The run's id once the start of the execution has arrived; None if that takes too long."""
    deadline = time.monotonic() + START_WAIT_S
    while (run_id := outbox.noted_run(execution_id)) is None and outbox.attended():
        if time.monotonic() > deadline or not server.answers(server.uri()):
            return None
        time.sleep(0.1)
    return run_id
