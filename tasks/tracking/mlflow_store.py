"""A tracking store and what is done to it. The stages import MLflow only here, and late, because it takes seconds.

Every operation may be repeated: it adds what the store lacks. One that was killed is done again from its start.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from condensenet.files import sha256
from tasks import paths
from tasks.console import say
from tasks.errors import first_line
from tasks.tracking import address, database, desired, metric_names, registry, snapshots, view
from tasks.tracking.address import URI, Rejected, UnknownRun, Unreachable
from tasks.tracking.snapshots import Snapshot

EXECUTION = "condensenet.execution_id"
PARENT = "mlflow.parentRunId"  # documented: how a run is shown below another
REJECTIONS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE")
BATCH = 100  # MLflow's limit for params and for tags; 1000 for metrics


class Store:
    """The store at ``uri``; a SQLite database is created. Raises ``Unreachable`` if it cannot be used."""

    def __init__(self, uri: str) -> None:
        for name, value in address.ENVIRONMENT.items():
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
        try:
            if (file := database.file_of(uri)) is not None:
                database.create(file, lambda draft: mlflow.MlflowClient(draft).search_experiments(max_results=1))
            self._client = mlflow.MlflowClient(uri, registry_uri=uri)
        except Exception as error:  # whatever a store's driver raises: the work must go on
            raise Unreachable(database.advice(uri, first_line(error))) from error

    def experiments(self) -> dict[str, str]:
        """Name -> id of the experiments of studies."""
        experiments = self._client.search_experiments(filter_string=f"tags.`{view.TAG}` LIKE '%'")
        return {experiment.name: experiment.experiment_id for experiment in experiments}

    def has_run(self, run: Mapping[str, Any]) -> bool:
        """Whether the store has the run of an execution. Raises ``Unreachable``."""
        try:
            return self._find_run(run) is not None
        except Exception as error:
            raise Unreachable(first_line(error)) from error

    def metrics(self, run: Mapping[str, Any]) -> dict[str, float]:
        """The last value of each metric of an execution's run; none if the store has no such run."""
        try:
            found = self._find_run(run)
        except Exception as error:
            raise Unreachable(first_line(error)) from error
        return {} if found is None else dict(found.data.metrics)  # by their names in the store

    def apply(self, snapshot: Snapshot, folder: Path) -> str:
        """Make the run hold what ``snapshot``, in ``folder``, does; returns its id.

        Raises ``Rejected``, ``Unreachable`` or ``UnknownRun``.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self._apply(snapshot, folder)
        except MlflowException as error:
            kind = Rejected if error.error_code in REJECTIONS else Unreachable
            raise kind(first_line(error)) from error
        except (OSError, SQLAlchemyError) as error:
            raise Unreachable(first_line(error)) from error
        except UnknownRun:
            raise
        except Exception as error:  # not the store's fault; the stage must not fail for it, and it must be seen
            raise Rejected(f"{type(error).__name__}: {first_line(error)}") from error

    def _apply(self, snapshot: Snapshot, folder: Path) -> str:
        run = self._find_run(snapshot.run)
        if run is None:
            if snapshot.stage not in snapshots.WHOLE:
                raise UnknownRun
            run = self._create_run(snapshot)
        run_id = run.info.run_id
        if snapshot.stage != snapshots.LIVE and snapshot.run.get("parent", run) is None:
            self._put_below_study(run, snapshot.run)
        self._log_identity(run, snapshot)
        if snapshot.stage in snapshots.WHOLE:
            self._log_epochs(run_id, desired.epochs(snapshots.history(folder, snapshot), snapshot.run["started_at"]))
        if (folder / snapshots.ARTIFACTS).is_dir():
            self._client.log_artifacts(run_id, str(folder / snapshots.ARTIFACTS))
        self._log_figures(run, snapshot, self._model(run_id, snapshot, folder / snapshots.ONNX / paths.ONNX))
        self._register_if_allowed(snapshot)
        self._set_status(run, snapshot)
        return run_id

    def _find_run(self, run: Mapping[str, Any]) -> Any:
        """The MLflow run of an execution, None if this store has none."""
        runs = self._runs_of(run)
        if "parent" in run:
            self._delete_empty(runs[1:])
        return runs[0] if runs else None

    def _runs_of(self, run: Mapping[str, Any]) -> list[Any]:
        """All MLflow runs of an execution; the first is the one that counts."""
        runs = self._client.search_runs(
            [self._experiment(run["study"])], f"tags.`{EXECUTION}` = '{run['execution_id']}'"
        )
        return sorted(runs, key=_fullest_first)

    def _delete_empty(self, doubles: Sequence[Any]) -> None:
        """A server that hangs makes a run for each request of the client, which repeats what was not answered."""
        for run in doubles:
            if not run.data.params and not run.data.metrics:
                self._client.delete_run(run.info.run_id)

    def _create_run(self, snapshot: Snapshot) -> Any:
        run = self._client.create_run(
            self._experiment(snapshot.run["study"]),
            start_time=desired.milliseconds(snapshot.run["started_at"]) or None,
            tags={EXECUTION: snapshot.run["execution_id"], **self._parent_tag(snapshot.run)},
            run_name=snapshot.run["setting"],
        )
        return self._client.get_run(run.info.run_id)

    def _parent_tag(self, run: Mapping[str, Any]) -> dict[str, str]:
        """What makes a run the child of its sweep's, else of its study's. An unknown sweep makes none."""
        if "parent" not in run:  # the run of a sweep, a study or the tables
            return {}
        if run["parent"] is None:
            return {PARENT: self._study_run(run).info.run_id}
        parent = self._find_run({"execution_id": run["parent"], "study": run["study"]})
        return {} if parent is None else {PARENT: parent.info.run_id}

    def _study_run(self, run: Mapping[str, Any]) -> Any:
        """The run that has all settings of a study below it, made if need be."""
        whole = desired.study_execution(run["study"], run["started_at"])
        found, *doubles = self._runs_of(whole) or [None]
        time_ms = desired.milliseconds(run["started_at"])
        snapshot = Snapshot(run=whole, stage=snapshots.STUDY, time_ms=time_ms, workspace="", status="FINISHED")
        found = found or self._create_run(snapshot)
        self._set_status(found, snapshot)  # also after a kill between the two
        self._delete_empty([double for double in doubles if not self._has_children(double)])
        return found

    def _has_children(self, run: Any) -> bool:
        query = f"tags.`{PARENT}` = '{run.info.run_id}'"
        return bool(self._client.search_runs([run.info.experiment_id], query, max_results=1))

    def _put_below_study(self, run: Any, execution: Mapping[str, Any]) -> None:
        """Where it is not: its study's run was deleted, or several machines made one at the same moment."""
        parent = self._study_run(execution).info.run_id
        if run.data.tags.get(PARENT) != parent:
            self._client.set_tag(run.info.run_id, PARENT, parent)

    def _experiment(self, name: str) -> str:
        """The id of the experiment of a study, made if need be."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = address.artifact_location(self.uri, name)
            return self._client.create_experiment(name, location, view.experiment_tags(name, round(1000 * time.time())))
        if experiment.lifecycle_stage == "deleted":  # else no run could ever be made under this name
            self._client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id

    def _log_identity(self, run: Any, snapshot: Snapshot) -> None:
        from mlflow.entities import Param, RunTag

        params, tags = snapshot.run.get("params") or {}, snapshot.tags
        for batch in _batches([Param(*item) for item in params.items() if item[0] not in run.data.params]):
            self._client.log_batch(run.info.run_id, params=batch)
        for batch in _batches([RunTag(*item) for item in tags.items() if run.data.tags.get(item[0]) != item[1]]):
            self._client.log_batch(run.info.run_id, tags=batch)
        if snapshot.run.get("dataset") and not run.inputs.dataset_inputs:
            self._log_dataset(run.info.run_id, snapshot.run["dataset"])

    def _log_dataset(self, run_id: str, data: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        made = Dataset(
            name=data["name"],
            digest=data["fingerprint"][:12],  # MLflow takes 36 characters, its table is readable with 12
            source_type="local",
            source=json.dumps({"uri": data["source"]}),
            profile=json.dumps({key: value for key, value in data.items() if key not in ("name", "source")}),
        )
        self._client.log_inputs(run_id, [DatasetInput(made, [InputTag("mlflow.data.context", "training")])])

    def _set_status(self, run: Any, snapshot: Snapshot) -> None:
        """A run that has ended keeps its end: the stages that follow do not make its training longer."""
        if snapshot.status in (None, run.info.status):
            return
        if snapshot.stage == snapshots.LIVE and run.info.status == "FINISHED":  # the clock was set back meanwhile
            return
        if snapshot.status == "RUNNING":
            self._client.update_run(run.info.run_id, snapshot.status)
        else:
            self._client.set_terminated(run.info.run_id, snapshot.status, snapshot.time_ms)

    def _log_epochs(self, run_id: str, epochs: Mapping[int, Sequence[desired.Point]]) -> None:
        """Add the epochs that the run lacks. One that is done again after a kill differs in its time alone."""
        if epochs:
            name = next(iter(epochs.values()))[0][0]  # a batch arrives whole: one metric tells for all
            done = {point.step for point in self._client.get_metric_history(run_id, metric_names.in_store(name))}
            for batch in _batches([points for step, points in epochs.items() if step not in done], BATCH // 2):
                self._log_points(run_id, [_as_stored(point) for points in batch for point in points])

    def _log_figures(self, run: Any, snapshot: Snapshot, model: Any | None) -> None:
        """Figures of the trained model get step 0, and belong to the exported one if there is any.

        One that the run has already is no new point: where it was logged before the model, that point is linked.
        """
        run_id, known = run.info.run_id, run.data.metrics
        points = [_as_stored((name, value, 0, snapshot.time_ms)) for name, value in snapshot.metrics.items()]
        new = [point for point in points if known.get(point[0]) != point[1]]
        linked = known if model is None else {metric.key: metric.value for metric in model.metrics or ()}
        unlinked = [name for name, value, *_ in points if known.get(name) == value != linked.get(name)]
        before = [self._latest(run_id, name) for name in unlinked]
        self._log_points(run_id, [*new, *before], None if model is None else model.model_id)

    def _log_points(self, run_id: str, points: Iterable[desired.Point], model_id: str | None = None) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, time_ms, step, model_id=model_id) for name, value, step, time_ms in points]
        for batch in _batches(metrics, 10 * BATCH):
            self._client.log_batch(run_id, metrics=batch)

    def _model(self, run_id: str, snapshot: Snapshot, file: Path) -> Any | None:
        """The exported model, logged once for each content, or the newest one if the snapshot has none."""
        if not file.exists() and not snapshot.metrics:
            return None
        models = self._models(snapshot.run, run_id)
        if not file.exists():
            return models[-1] if models else None
        digest = sha256(file)
        return registry.file_of(models, digest) or self._upload_onnx(run_id, snapshot.run, file, digest)

    def _register_if_allowed(self, snapshot: Snapshot) -> None:
        """Who may write an experiment need not be one who may change the study's registered model."""
        from mlflow.exceptions import MlflowException

        try:
            self._register(snapshot)
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            name = registry.name_of(snapshot.run["study"])
            say(f"tracking: {name}, a registered model, may not be changed: left alone")

    def _register(self, snapshot: Snapshot) -> None:
        """A version of the registered model for each setting's file, with its card; aliases for the best."""
        study, versions = snapshot.run["study"], {}
        for execution, exported in snapshot.models.items():
            run = {"execution_id": execution, "study": study}
            found = self._find_run(run)
            models = [] if found is None else self._models(run, found.info.run_id)
            model = registry.file_of(models, exported["sha256"])
            if model is not None:
                versions[execution] = registry.version(self._client, study, model, exported["card"])
        registry.set_aliases(self._client, study, snapshot.aliases, versions)

    def _models(self, run: Mapping[str, Any], run_id: str) -> list[Any]:
        """The complete logged models of a run, oldest first; what a kill left half-made is removed."""
        models = self._client.search_logged_models([self._experiment(run["study"])], f"source_run_id = '{run_id}'")
        for model in models:
            if model.status != "READY":
                self._client.delete_logged_model(model.model_id)
        ready = [model for model in models if model.status == "READY"]
        return sorted(ready, key=lambda model: model.creation_timestamp)

    def _latest(self, run_id: str, name: str) -> desired.Point:
        history = self._client.get_metric_history(run_id, name)
        point = max(history, key=lambda point: (point.step, point.timestamp))
        return name, point.value, point.step, point.timestamp

    def _upload_onnx(self, run_id: str, run: Mapping[str, Any], file: Path, digest: str) -> Any:
        import numpy as np
        import onnx
        from mlflow.models import infer_signature

        model = onnx.load(file)
        output = model.graph.output[0]
        example, logits = (np.zeros(_shape(value), dtype=np.float32) for value in (model.graph.input[0], output))
        logged = self._client.create_logged_model(
            self._experiment(run["study"]),
            name=run["setting"],
            source_run_id=run_id,
            tags={"sha256": digest},
            params={name: value for name, value in (run.get("params") or {}).items() if name in ("G", "C")},
            model_type="onnx",
        )
        epochs = self._client.get_metric_history(run_id, metric_names.in_store("train_loss"))
        self._mlflow.onnx.log_model(
            model,
            model_id=logged.model_id,
            run_id=run_id,
            step=max((point.step for point in epochs), default=0),  # the last epoch
            signature=infer_signature(example, {output.name: logits}),
            input_example=example,
            pip_requirements=["onnx", "onnxruntime"],  # else MLflow finds them by loading the model in a new process
            save_as_external_data=False,
        )
        return self._client.get_logged_model(logged.model_id)


def _shape(value: Any) -> list[int]:
    """Of an input or output of an ONNX graph, for a batch of one."""
    return [axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim]


def _fullest_first(run: Any) -> tuple[int, str]:
    return -len(run.data.params) - len(run.data.metrics), run.info.run_id


def _as_stored(point: desired.Point) -> desired.Point:
    name, value, step, time_ms = point
    return metric_names.in_store(name), metric_names.rounded(name, value), step, time_ms


def _batches(items: Sequence[Any], size: int = BATCH) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
