"""A tracking store and what is done to it: the one importer of MLflow, which costs seconds, so it comes late.

Every operation may be repeated: it adds what the store lacks. One that was killed is done again from its start.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import paths
from tasks.tracking import database, desired, server, snapshots, view
from tasks.tracking.server import URI, Rejected, UnknownRun, Unreachable
from tasks.tracking.snapshots import Snapshot

EXECUTION = "condensenet.execution_id"
REJECTIONS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE")
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
BATCH = 100  # MLflow's limit for params and for tags; 1000 for metrics


class Store:
    """The store at ``uri``; a SQLite database is created. Raises ``Unreachable`` if it cannot be used."""

    def __init__(self, uri: str) -> None:
        for name, value in server.ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import logging

        import mlflow

        logging.getLogger("alembic").setLevel(logging.ERROR)
        self.uri = uri
        self._mlflow = mlflow
        given = os.environ.get(URI)
        mlflow.set_tracking_uri(uri)  # which also sets the variable, for processes that this one starts: undone
        if given is None:
            os.environ.pop(URI, None)
        else:
            os.environ[URI] = given
        self._forget()
        try:
            if (file := database.file_of(uri)) is not None:
                database.create(file, lambda draft: mlflow.MlflowClient(draft).search_experiments(max_results=1))
            self._client = mlflow.MlflowClient(uri)
        except Exception as error:  # whatever a store's driver raises: the work must go on
            raise Unreachable(database.advice(uri, _first_line(error))) from error

    def _forget(self) -> None:
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}  # by execution id
        self._steps: dict[str, set[int]] = {}  # the epochs that a run has
        self._begun: set[str] = set()  # live snapshots of which only epochs can be new

    def experiments(self) -> dict[str, str]:
        """Name -> id of the experiments of studies."""
        experiments = self._client.search_experiments(filter_string=f"tags.`{view.TAG}` LIKE '%'")
        return {experiment.name: experiment.experiment_id for experiment in experiments}

    def has_run(self, run: Mapping[str, Any]) -> bool:
        """Whether the store has the run of an execution. Raises ``Unreachable``."""
        self._forget()  # it may have been deleted since we knew it
        try:
            return self._find_run(run) is not None
        except Exception as error:
            raise Unreachable(_first_line(error)) from error

    def apply(self, snapshot: Snapshot, folder: Path) -> str:
        """Make the run hold what ``snapshot``, in ``folder``, does; returns its id.

        Raises ``Rejected``, ``Unreachable`` or ``UnknownRun``.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self._apply_afresh(snapshot, folder)
        except MlflowException as error:
            kind = Rejected if error.error_code in REJECTIONS else Unreachable
            raise kind(_first_line(error)) from error
        except (OSError, SQLAlchemyError) as error:
            raise Unreachable(_first_line(error)) from error
        except UnknownRun:
            raise
        except Exception as error:  # not the store's fault; the stage must not fail for it, and it must be seen
            raise Rejected(f"{type(error).__name__}: {_first_line(error)}") from error

    def _apply_afresh(self, snapshot: Snapshot, folder: Path) -> str:
        """Again with nothing remembered, if what we know may have been deleted meanwhile."""
        from mlflow.exceptions import MlflowException

        try:
            return self._apply(snapshot, folder)
        except MlflowException as error:
            if not self._runs or error.error_code not in (*REJECTIONS, UNKNOWN):
                raise
        self._forget()
        return self._apply(snapshot, folder)

    def _apply(self, snapshot: Snapshot, folder: Path) -> str:
        run_id = self._find_run(snapshot.run)
        if run_id is None:
            if not snapshot.is_whole:
                raise UnknownRun
            run_id = self._create_run(snapshot)
        new = folder.name not in self._begun or snapshot.status != "RUNNING"
        if new:
            self._log_identity(run_id, snapshot)
        if snapshot.is_whole:
            history = snapshots.history(folder, snapshot)
            self._log_epochs(run_id, desired.epochs(history, snapshot.run["started_at"]))
        self._log_outputs(run_id, snapshot, folder)
        if new:
            self._set_status(run_id, snapshot)
        if snapshots.is_live(folder):
            self._begun.add(folder.name)
        return run_id

    def _log_identity(self, run_id: str, snapshot: Snapshot) -> None:
        from mlflow.entities import Param, RunTag

        params = [Param(name, value) for name, value in (snapshot.run.get("params") or {}).items()]
        tags = [RunTag(name, value) for name, value in snapshot.tags.items()]
        for batch in _batches(params):
            self._client.log_batch(run_id, params=batch)
        for batch in _batches(tags):
            self._client.log_batch(run_id, tags=batch)
        self._log_dataset(run_id, snapshot.run.get("dataset"))

    def _log_outputs(self, run_id: str, snapshot: Snapshot, folder: Path) -> None:
        if (folder / snapshots.ARTIFACTS).is_dir():
            self._client.log_artifacts(run_id, str(folder / snapshots.ARTIFACTS))
        self._log_figures(run_id, snapshot)
        models = self._models(snapshot.run, run_id) if snapshot.metrics else []
        file = folder / snapshots.ONNX / paths.ONNX
        if file.exists():
            models = [self._onnx_model(snapshot.run, run_id, file)]
        for model in models[-1:]:
            self._link_metrics(run_id, model)

    def _find_run(self, run: Mapping[str, Any]) -> str | None:
        """The id of the run of an execution, None if this store has none."""
        execution = run["execution_id"]
        if execution not in self._runs:
            query = f"tags.`{EXECUTION}` = '{execution}'"
            runs = self._client.search_runs([self._experiment(run["study"])], query, max_results=1)
            if not runs:
                return None
            self._runs[execution] = runs[0].info.run_id
        return self._runs[execution]

    def _create_run(self, snapshot: Snapshot) -> str:
        run = snapshot.run
        created = self._client.create_run(
            self._experiment(run["study"]),
            start_time=desired.milliseconds(run["started_at"]) or None,
            tags={**snapshot.tags, EXECUTION: run["execution_id"]},
            run_name=run["setting"],
        )
        self._runs[run["execution_id"]] = created.info.run_id
        return created.info.run_id

    def _experiment(self, name: str) -> str:
        """The id of the experiment of a study, made if need be."""
        if name not in self._experiments:
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                location = server.artifact_location(self.uri, name)
                tags = view.experiment_tags(name, round(1000 * time.time()))
                self._experiments[name] = self._client.create_experiment(name, location, tags)
            else:
                if experiment.lifecycle_stage == "deleted":  # else no run could ever be made under this name
                    self._client.restore_experiment(experiment.experiment_id)
                self._experiments[name] = experiment.experiment_id
        return self._experiments[name]

    def _log_dataset(self, run_id: str, data: Mapping[str, str] | None) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not data:
            return
        made = Dataset(
            name=data["name"],
            digest=data["fingerprint"][:12],  # MLflow takes 36 characters, its table is readable with 12
            source_type="local",
            source=json.dumps({"uri": data["source"]}),
            profile=json.dumps({key: value for key, value in data.items() if key not in ("name", "source")}),
        )
        self._client.log_inputs(run_id, [DatasetInput(made, [InputTag("mlflow.data.context", "training")])])

    def _set_status(self, run_id: str, snapshot: Snapshot) -> None:
        """A run that has ended keeps its end: the stages that follow do not make its training longer."""
        status = snapshot.status
        if status is None or self._client.get_run(run_id).info.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run_id, status)
        else:
            self._client.set_terminated(run_id, status, snapshot.time_ms)

    def _log_epochs(self, run_id: str, epochs: Mapping[int, Sequence[desired.Point]]) -> None:
        """Add the epochs that the run lacks. An epoch done again after a kill differs in its time alone."""
        if not epochs:
            return
        if run_id not in self._steps:
            name = next(iter(epochs.values()))[0][0]  # a batch arrives whole: one metric tells for all
            self._steps[run_id] = {point.step for point in self._client.get_metric_history(run_id, name)}
        for batch in _batches([step for step in epochs if step not in self._steps[run_id]], BATCH // 2):
            self._log_points(run_id, [point for step in batch for point in epochs[step]])
            self._steps[run_id].update(batch)

    def _log_figures(self, run_id: str, snapshot: Snapshot) -> None:
        """Figures of the trained model get step 0; one that the run has already is no new point."""
        if snapshot.metrics:
            latest = self._client.get_run(run_id).data.metrics
            new = {name: value for name, value in snapshot.metrics.items() if latest.get(name) != value}
            self._log_points(run_id, [(name, value, 0, snapshot.time_ms) for name, value in new.items()])

    def _log_points(self, run_id: str, points: Iterable[desired.Point], model_id: str | None = None) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, time_ms, step, model_id=model_id) for name, value, step, time_ms in points]
        for batch in _batches(metrics, 10 * BATCH):
            self._client.log_batch(run_id, metrics=batch)

    def _link_metrics(self, run_id: str, model: Any) -> None:
        """Give a logged model the run's latest metrics."""
        linked = {(metric.key, metric.value) for metric in model.metrics or ()}
        latest = self._client.get_run(run_id).data.metrics
        points = [self._latest(run_id, name) for name, value in latest.items() if (name, value) not in linked]
        self._log_points(run_id, points, model.model_id)

    def _latest(self, run_id: str, name: str) -> desired.Point:
        history = self._client.get_metric_history(run_id, name)
        point = max(history, key=lambda point: (point.step, point.timestamp))
        return name, point.value, point.step, point.timestamp

    def _models(self, run: Mapping[str, Any], run_id: str) -> list[Any]:
        """The complete logged models of a run, oldest first; what a kill left half-made is removed."""
        models = self._client.search_logged_models([self._experiment(run["study"])], f"source_run_id = '{run_id}'")
        for model in models:
            if model.status != "READY":
                self._client.delete_logged_model(model.model_id)
        return sorted(
            (model for model in models if model.status == "READY"), key=lambda model: model.creation_timestamp
        )

    def _onnx_model(self, run: Mapping[str, Any], run_id: str, file: Path) -> Any:
        """The logged model with the content of ``file``, logged unless the run has it."""
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        for model in self._models(run, run_id):
            if model.tags.get("sha256") == digest:
                return model
        model = self._client.create_logged_model(
            self._experiment(run["study"]),
            name=run["setting"],
            source_run_id=run_id,
            tags={"sha256": digest},
            params={name: value for name, value in (run.get("params") or {}).items() if name in ("G", "C")},
            model_type="onnx",
        )
        self._upload_onnx(run_id, model.model_id, file)
        return self._client.get_logged_model(model.model_id)

    def _upload_onnx(self, run_id: str, model_id: str, file: Path) -> None:
        import numpy as np
        import onnx
        from mlflow.models import infer_signature

        model = onnx.load(file)
        shape = [axis.dim_value or 1 for axis in model.graph.input[0].type.tensor_type.shape.dim]
        example = np.zeros(shape, dtype=np.float32)
        names = self._client.get_run(run_id).data.metrics
        self._mlflow.onnx.log_model(
            model,
            model_id=model_id,
            run_id=run_id,
            step=max((self._latest(run_id, name)[2] for name in names), default=0),  # the last epoch
            signature=infer_signature(example, {model.graph.output[0].name: example[:, 0, 0, 0]}),
            input_example=example,
            pip_requirements=["onnx", "onnxruntime"],  # else MLflow finds them by loading the model in a new process
            save_as_external_data=False,
        )


def _batches(items: Sequence[Any], size: int = BATCH) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
