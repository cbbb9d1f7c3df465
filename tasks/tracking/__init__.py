"""Mirror to MLflow what the stages make: snapshots on disk first, uploaded when the store is there.

A stage calls ``record`` at its end; it never fails because of the tracking store. One MLflow run is one real execution
of training: ``train`` calls ``start_execution``, which writes ``run.json``. The stages that follow read that file and
add to the same run, also when DVC restored it from its cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensenet.files import write_atomically
from tasks import outputs, paths
from tasks.tracking import desired, registry, snapshots
from tasks.tracking.desired import dvc_hashes
from tasks.tracking.reconcile import is_unreachable, metrics_of, upload
from tasks.tracking.snapshots import LIVE, STUDY, SWEEP_STAGE, TABLES, Snapshot
from tasks.tracking.upload_process import uploader

if TYPE_CHECKING:  # importing them imports torch, which uploading does not need
    from tasks.params import Params, Setting

__all__ = [
    "SWEEP",
    "add_environment",
    "dvc_hashes",
    "learn_run_id",
    "metrics_of",
    "name_execution",
    "record",
    "record_failure",
    "record_study",
    "record_sweep",
    "record_tables",
    "start_execution",
    "start_sweep",
    "upload",
    "uploader",
]

SWEEP = "CONDENSENET_SWEEP"  # in the environment of a sweep's stages: the execution id of the sweep
START_WAIT_S = 60.0  # a starting execution waits this long for another process that uploads, to learn its run's id


def name_execution(training: Path, params: Params, setting: Setting) -> dict[str, Any]:
    """The ``run.json`` in the folder ``training``, which is written if there is none. Does not wait for MLflow."""
    run = outputs.read_json_or_empty(training / paths.RUN)
    if not run:
        run = _new_run(params, setting)
        _write_run(training, run)
    return run


def start_execution(training: Path, params: Params, setting: Setting) -> dict[str, Any]:
    """Begin the execution of ``setting`` in the folder ``training``, or go on with it: returns its ``run.json``.

    The execution is named first: whatever is killed later, it keeps its name and has one MLflow run, which gets the
    parameters, the commit, the dataset and from now on every epoch in the folder's ``history.csv``.
    """
    run = name_execution(training, params, setting)
    tags = desired.run_tags(params, setting, run["git_commit"])
    _put(run, LIVE, status="RUNNING", tags=tags, training=str(training.resolve()))
    deadline = time.monotonic() + START_WAIT_S
    upload()
    while not learn_run_id(training, run) and not is_unreachable() and time.monotonic() < deadline:
        time.sleep(0.1)
        upload()
    return run


def _new_run(params: Params, setting: Setting) -> dict[str, Any]:
    return {
        "execution_id": uuid.uuid4().hex,
        "mlflow_run_id": None,
        "study": params.study,
        "setting": setting.name,
        "started_at": _now(),
        "parent": os.environ.get(SWEEP),
        "git_commit": desired.git_commit(),
        "params": desired.run_params(params, setting),
        "dataset": desired.dataset(params),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def learn_run_id(training: Path, run: dict[str, Any]) -> bool:
    """Complete ``run`` and its file by the id of the MLflow run; False while that is not known."""
    if run["mlflow_run_id"] is None:
        run["mlflow_run_id"] = snapshots.noted_run_id(run["execution_id"])
        if run["mlflow_run_id"] is not None:
            _write_run(training, run)
    return run["mlflow_run_id"] is not None


def add_environment(training: Path, run: dict[str, Any], environment: Mapping[str, Any]) -> None:
    """Complete ``run`` and its file by what the last bits of the weights depend on (``checkpoint.environment``)."""
    run["environment"] = dict(environment)
    _write_run(training, run)


def _write_run(training: Path, run: Mapping[str, Any]) -> None:
    write_atomically(training / paths.RUN, (json.dumps(run, indent=1) + "\n").encode())


def record(
    run: Mapping[str, Any],
    stage: str,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    artifacts: Sequence[tuple[Path, str]] | None = None,
    finished: bool = False,
) -> None:
    """Keep what ``stage`` made for the run of the execution that ``run`` (the content of ``run.json``) names.

    Left out, ``metrics`` and ``artifacts`` are those in the stage's outputs. ``artifacts`` are pairs of a file or
    folder and the artifact folder it goes to ("" for the top). ``finished`` ends the run.
    """
    _put(
        run,
        stage,
        artifacts=desired.outputs(run, stage) if artifacts is None else artifacts,
        onnx_model=desired.onnx_model(run) if stage == "export" else None,
        metrics=desired.figures(run, stage) if metrics is None else metrics,
        tags=tags or {},
        status="FINISHED" if finished else None,
    )
    upload()


def record_tables(params: Params, facts: Mapping[str, Any]) -> None:
    """A finished run of its own for the tables: their files, and the latencies ``facts`` as metrics."""
    run = {
        "execution_id": uuid.uuid4().hex,
        "study": paths.TABLES.name,
        "setting": str(facts["hardware"]["cpu"]),
        "started_at": _now(),
        "git_commit": desired.git_commit(),
        "params": {"tables.image_size": str(params.tables.image_size), "tables.rounds": str(params.tables.rounds)},
    }
    latencies = {
        f"{figure}/{row['model']}/{row['form']}": row[source]
        for row in facts["rows"]
        for figure, source in (("latency_ms", "median_ms"), ("latency_ratio", "ratio"))
    }
    artifacts = [(paths.TABLES / file, "") for file in (paths.COST_TABLE, paths.LATENCY, paths.TABLES_MD)]
    _put(run, TABLES, artifacts=artifacts, metrics=latencies, status="FINISHED")
    upload()


def start_sweep(study: str, grid: Mapping[str, Any], text: str) -> str:
    """Begin or go on with the sweep of ``study`` over ``grid``: the execution that its points' runs get as a parent.

    It is named after its parameters, the ``text`` of ``params.yaml``: clones that share the work share the parent.
    """
    execution = hashlib.sha256(text.encode()).hexdigest()[:32]
    record_sweep(execution, study, grid, [], status="RUNNING")
    return execution


def record_sweep(execution: str, study: str, grid: Mapping[str, Any], files: Sequence[Path], *, status: str) -> None:
    """The parent run of a sweep's points, with ``files`` that exist as artifacts."""
    run = {
        "execution_id": execution,
        "study": study,
        "setting": "sweep",
        "started_at": _now(),  # counts only where the run is made
        "params": {key: json.dumps(values) for key, values in grid.items()},
    }
    _put(run, SWEEP_STAGE, artifacts=[(file, "") for file in files if file.exists()], status=status)
    upload()


def record_study(
    study: str,
    files: Sequence[Path],
    models: Mapping[str, Mapping[str, str]],
    metrics: Mapping[str, Mapping[str, float]],
) -> None:
    """The run above all settings of ``study`` gets ``files``; the registry gets their models, with cards and aliases.

    ``models`` (``sha256`` and ``card`` of the exported file) and ``metrics`` are by execution. In a sweep it is the
    sweep's run, which the sweep itself ends.
    """
    run: dict[str, str] = desired.study_execution(study, _now())
    status: str | None = "FINISHED"
    if sweep := os.environ.get(SWEEP):
        run, status = {**run, "execution_id": sweep, "setting": "sweep"}, None
    artifacts = [(file, "") for file in files]
    _put(run, STUDY, artifacts=artifacts, status=status, models=models, aliases=registry.best(metrics))
    upload()


def record_failure(run: Mapping[str, Any], training: Path) -> None:
    """End the run of a training that failed; it runs again when the training does."""
    history = training / paths.HISTORY
    _put(run, "train", artifacts=[(history, "train")] if history.exists() else [], status="FAILED")
    upload()


def _put(
    run: Mapping[str, Any],
    stage: str,
    artifacts: Sequence[tuple[Path, str]] = (),
    onnx_model: Path | None = None,
    **rest: Any,
) -> None:
    snapshot = Snapshot(run=run, stage=stage, time_ms=round(1000 * time.time()), workspace=str(Path.cwd()), **rest)
    snapshots.put(snapshot, artifacts, onnx_model)
