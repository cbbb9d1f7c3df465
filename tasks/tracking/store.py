"""A tracking store and what is done to it: the one importer of MLflow, which costs seconds, so it comes late.

Every operation may be repeated: a delivery that was killed half-way is done again from its start.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import paths
from tasks.tracking import contents, outbox, server, view
from tasks.tracking.server import URI, Away, Refused

EXECUTION = "condensenet.execution_id"
RESTORING = "condensenet.restoring"
RESTORED = "restored_from"
ONNX = "onnx"
START = "start"  # the stage of an execution's first record
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE")
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
BATCH = 100  # MLflow's limit for params and for tags; 1000 for metrics


class Store:
    """The store at ``uri``. Opening a database for the first time creates it: hold the outbox's lock."""

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
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}  # by execution id

    @classmethod
    def open(cls, uri: str) -> Store:
        """The store at ``uri``; raises ``Away`` if it cannot be used, now or at all."""
        try:
            return cls(uri)
        except Exception as error:  # whatever a store's driver raises: the work must go on
            raise Away(_first_line(error)) from error

    def experiment(self, name: str) -> str:
        """The id of the experiment of a study, made if need be."""
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                location = server.artifact_location(self.uri, name)
                tags = view.experiment_tags(name, round(1000 * time.time()))
                self._experiments[name] = self._client.create_experiment(name, location, tags)
            else:
                if found.lifecycle_stage == "deleted":  # else no run could ever be made under this name
                    self._client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def experiments(self) -> dict[str, str]:
        """Name -> id of the experiments of studies."""
        found = self._client.search_experiments(filter_string=f"tags.`{view.TAG}` LIKE '%'")
        return {experiment.name: experiment.experiment_id for experiment in found}

    def find_run(self, run: Mapping[str, Any]) -> str | None:
        """The id of the run of an execution, None if this store has none."""
        execution = run["execution_id"]
        if execution not in self._runs:
            found = self._search(run, EXECUTION)
            if found is None:
                return None
            self._runs[execution] = found
        return self._runs[execution]

    def _search(self, run: Mapping[str, Any], tag: str) -> str | None:
        wanted = f"tags.`{tag}` = '{run['execution_id']}'"
        found = self._client.search_runs([self.experiment(run["study"])], wanted, max_results=1)
        return found[0].info.run_id if found else None

    def _create_run(self, run: Mapping[str, Any], tag: str) -> str:
        created = self._client.create_run(
            self.experiment(run["study"]),
            start_time=contents.milliseconds(run["started_at"]) or None,
            tags={tag: run["execution_id"]},
            run_name=run["setting"],
        )
        return created.info.run_id

    def restore_if_unknown(self, run: Mapping[str, Any], workspace: Path) -> bool:
        """Make the run of an execution that this store never saw; whether it did. Raises ``Away``."""
        try:
            self._runs.clear()  # it may have been deleted since we knew it
            if self.find_run(run) is not None:
                return False
            self._restore_run(run, workspace)
        except Exception as error:
            raise Away(_first_line(error)) from error
        return True

    def apply(self, record: Mapping[str, Any], folder: Path) -> str:
        """Log one record of the outbox; returns the run's id. Raises ``Refused`` or ``Away``."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self._apply_afresh(record, folder)
        except MlflowException as error:
            kind = Refused if error.error_code in REFUSALS else Away
            raise kind(_first_line(error)) from error
        except (OSError, SQLAlchemyError) as error:
            raise Away(_first_line(error)) from error
        except Exception as error:  # not the store's fault; the stage must not fail for it, and it must be seen
            raise Refused(f"{type(error).__name__}: {_first_line(error)}") from error

    def _apply_afresh(self, record: Mapping[str, Any], folder: Path) -> str:
        """Apply ``record``, again with nothing remembered if what we know may have been deleted meanwhile."""
        from mlflow.exceptions import MlflowException

        try:
            return self._apply(record, folder)
        except MlflowException as error:
            if not self._runs or error.error_code not in (*REFUSALS, UNKNOWN):
                raise
        self._runs.clear()
        self._experiments.clear()
        return self._apply(record, folder)

    def _apply(self, record: Mapping[str, Any], folder: Path) -> str:
        run = record["run"]
        run_id = self.find_run(run)
        if run_id is None:
            first = record["stage"] == START
            run_id = self._create_run(run, EXECUTION) if first else self._restore_run(run, Path(record["workspace"]))
        self._log_params(run_id, record.get("params") or {})
        self._log_tags(run_id, record.get("tags") or {})
        self._log_dataset(run_id, record.get("dataset"))
        self._log_metrics(run, run_id, record)
        for target in record.get("artifacts") or ():
            source = _present(folder / outbox.FILES / target["kept"])
            self._client.log_artifacts(run_id, str(source), target["folder"] or None)
        if record.get("onnx_model"):
            self._log_onnx(run, run_id, _present(folder / outbox.FILES / record["onnx_model"]))
        self._set_status(run_id, record.get("status"), record["time_ms"])
        return run_id

    def _restore_run(self, run: Mapping[str, Any], workspace: Path) -> str:
        """A run filled from what ``run.json`` says and from the files that DVC tracks.

        It becomes the execution's run at the very end: after a kill half-way the same run is filled again.
        """
        run_id = self._search(run, RESTORING) or self._create_run(run, RESTORING)
        self._log_params(run_id, run.get("params") or {})
        self._log_dataset(run_id, run.get("dataset"))
        points: list[contents.Point] = []
        for folder in (workspace, paths.checkout()):  # a temporary workspace of an experiment may be gone
            points = points or contents.tracked_metrics(run, folder)
        self._log_points(run_id, points)
        self._client.set_terminated(run_id, "FINISHED", max((point[3] for point in points), default=None))
        tags = {EXECUTION: run["execution_id"], RESTORED: str(run.get("mlflow_run_id") or run["execution_id"])}
        if run.get("git_commit"):
            tags["mlflow.source.git.commit"] = run["git_commit"]
        self._log_tags(run_id, tags)
        return run_id

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """A parameter of a run is fixed: one that comes with another value later becomes a tag."""
        from mlflow.entities import Param

        if not params:
            return
        known = self._client.get_run(run_id).data.params
        fresh = [Param(name, value) for name, value in params.items() if name not in known]
        for start in range(0, len(fresh), BATCH):
            self._client.log_batch(run_id, params=fresh[start : start + BATCH])
        changed = {name: value for name, value in params.items() if known.get(name, value) != value}
        self._log_tags(run_id, {f"changed.{name}": value for name, value in changed.items()})

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        items = [RunTag(name, value) for name, value in tags.items()]
        for start in range(0, len(items), BATCH):
            self._client.log_batch(run_id, tags=items[start : start + BATCH])

    def _log_metrics(self, run: Mapping[str, Any], run_id: str, record: Mapping[str, Any]) -> None:
        """Of an epoch, or of the trained model: those get step 0, drawn as bars by the UI, and go to the model too."""
        metrics, step = record.get("metrics") or {}, record.get("step")
        if metrics:
            known = {(metric.key, metric.step, metric.value) for metric in self._latest(run_id)}
            points = [(name, value, step or 0, record["time_ms"]) for name, value in metrics.items()]
            models = self._models(run, run_id) if step is None else []
            fresh = [point for point in points if (point[0], point[2], point[1]) not in known]
            self._log_points(run_id, fresh, models[-1].model_id if models else None)

    def _latest(self, run_id: str) -> list[Any]:
        """The last point of every metric; the public view of them lacks the step."""
        return list(self._client.get_run(run_id).data._metric_objs)

    def _log_points(self, run_id: str, points: list[contents.Point], model_id: str | None = None) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, time_ms, step, model_id=model_id) for name, value, step, time_ms in points]
        for start in range(0, len(metrics), 10 * BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + 10 * BATCH])

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

    def _models(self, run: Mapping[str, Any], run_id: str) -> list[Any]:
        """The complete logged models of a run, oldest first; what a kill left half-made is taken away."""
        found = self._client.search_logged_models([self.experiment(run["study"])], f"source_run_id = '{run_id}'")
        for model in found:
            if model.status != "READY":
                self._client.delete_logged_model(model.model_id)
        return sorted((model for model in found if model.status == "READY"), key=lambda model: model.creation_timestamp)

    def _log_onnx(self, run: Mapping[str, Any], run_id: str, file: Path) -> None:
        """Log the exported file as a model of the run, once for each content."""
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if any(model.tags.get("sha256") == digest for model in self._models(run, run_id)):
            return
        import numpy as np
        import onnx
        from mlflow.models import infer_signature

        model = onnx.load(file)
        shape = [axis.dim_value or 1 for axis in model.graph.input[0].type.tensor_type.shape.dim]
        example = np.zeros(shape, dtype=np.float32)
        outputs = {model.graph.output[0].name: example[:, 0, 0, 0]}
        known = self._latest(run_id)
        made = self._client.create_logged_model(
            self.experiment(run["study"]),
            name=run["setting"],
            source_run_id=run_id,
            tags={"sha256": digest},
            params={name: value for name, value in (run.get("params") or {}).items() if name in ("G", "C")},
            model_type=ONNX,
        )
        self._mlflow.onnx.log_model(
            model,
            model_id=made.model_id,
            run_id=run_id,
            step=max((metric.step for metric in known), default=0),  # links the last epoch's metrics to the model
            signature=infer_signature(example, outputs),
            input_example=example,
            pip_requirements=["onnx", "onnxruntime"],  # else MLflow finds them by loading the model in a new process
            save_as_external_data=False,
        )
        points = [(metric.key, metric.value, 0, metric.timestamp) for metric in known if metric.step == 0]
        self._log_points(run_id, points, made.model_id)

    def _set_status(self, run_id: str, status: str | None, time_ms: int) -> None:
        """A run that has ended keeps its end: the stages that follow do not make its training longer."""
        if status is None or self._client.get_run(run_id).info.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run_id, status)
        else:
            self._client.set_terminated(run_id, status, time_ms)


def _present(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"{path.name} is missing from the record")
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
