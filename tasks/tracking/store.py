"""A tracking store and what is done to it: the one importer of MLflow, which costs seconds, so it comes late.

Every operation may be repeated: a delivery that was killed half-way is done again from its start.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.tracking import contents, outbox, server

EXECUTION = "condensenet.execution_id"
RESTORED = "restored_from"
ONNX_NAME = "onnx"
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE")
STATUSES = ("RUNNING", "FINISHED", "FAILED")
BATCH = 100  # MLflow's limit for params and for tags; 1000 for metrics


class Refused(Exception):
    """The store answers and will never take this record."""


class Away(Exception):
    """The store does not answer, or not as it should; trying again later may help."""


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
        mlflow.set_tracking_uri(uri)
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
                self._experiments[name] = self._client.create_experiment(name, artifact_location=location)
            else:
                if found.lifecycle_stage == "deleted":  # else no run could ever be made under this name
                    self._client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def find_run(self, run: Mapping[str, Any]) -> str | None:
        """The id of the run of an execution, None if this store has none."""
        execution = run["execution_id"]
        if execution not in self._runs:
            found = self._client.search_runs(
                [self.experiment(run["study"])], f"tags.`{EXECUTION}` = '{execution}'", max_results=1
            )
            if found:
                self._runs[execution] = found[0].info.run_id
        return self._runs.get(execution)

    def known_run(self, execution_id: str) -> str | None:
        """The id of a run that was found or made through this object; asks nobody."""
        return self._runs.get(execution_id)

    def create_run(self, run: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> str:
        created = self._client.create_run(
            self.experiment(run["study"]),
            start_time=contents.milliseconds(run["started_at"]) or None,
            tags={EXECUTION: run["execution_id"], **(tags or {})},
            run_name=run["setting"],
        )
        self._runs[run["execution_id"]] = created.info.run_id
        return created.info.run_id

    def restore_run(self, run: Mapping[str, Any], workspace: Path) -> str:
        """A run for an execution that this store never saw, filled from the files that DVC tracks."""
        tags = {RESTORED: str(run.get("mlflow_run_id") or run["execution_id"])}
        if run.get("git_commit"):
            tags["mlflow.source.git.commit"] = run["git_commit"]
        run_id = self.create_run(run, tags)
        points = contents.tracked_metrics(run["study"], run["setting"], run["execution_id"], workspace)
        self._log_points(run_id, points)
        self._client.set_terminated(run_id, "FINISHED", max((point[3] for point in points), default=None))
        return run_id

    def apply(self, record: Mapping[str, Any], folder: Path) -> None:
        """Log one record of the outbox; raises ``Refused`` or ``Away``."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self._apply(record, folder)
        except MlflowException as error:
            self._runs.pop(record["run"]["execution_id"], None)  # it may have been deleted meanwhile
            kind = Refused if error.error_code in REFUSALS else Away
            raise kind(_first_line(error)) from error
        except (OSError, SQLAlchemyError) as error:
            raise Away(_first_line(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"{type(error).__name__}: {_first_line(error)}") from error

    def _apply(self, record: Mapping[str, Any], folder: Path) -> None:
        run = record["run"]
        run_id = self.find_run(run)
        if run_id is None:
            if record["stage"] == "start":
                run_id = self.create_run(run)
            else:
                run_id = self.restore_run(run, Path(record["workspace"]))
        self._log_params(run_id, record.get("params") or {})
        self._log_tags(run_id, record.get("tags") or {})
        if record.get("dataset"):
            self._log_dataset(run_id, record["dataset"])
        step = record.get("step")
        if step is None:
            step = self._last_step(run_id)
        metrics = record.get("metrics") or {}
        self._log_points(run_id, [(name, value, step, record["time_ms"]) for name, value in metrics.items()])
        for target in record.get("artifacts") or ():
            self._client.log_artifacts(run_id, str(folder / outbox.FILES / target["kept"]), target["folder"] or None)
        if record.get("onnx_model"):
            self._log_onnx(run, run_id, folder / outbox.FILES / record["onnx_model"], step)
        self._set_status(run_id, record.get("status"), record["time_ms"])

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

    def _log_points(self, run_id: str, points: list[contents.Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, time_ms, step) for name, value, step, time_ms in points]
        for start in range(0, len(metrics), 10 * BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + 10 * BATCH])

    def _log_dataset(self, run_id: str, data: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        made = Dataset(
            name=data["name"],
            digest=data["fingerprint"][:36],  # MLflow's limit
            source_type="local",
            source=data["source"],
            profile=data.get("profile"),
        )
        self._client.log_inputs(run_id, [DatasetInput(made, [InputTag("mlflow.data.context", "training")])])

    def _last_step(self, run_id: str) -> int:
        metrics = self._client.get_run(run_id).data._metric_objs  # the public view has values, not steps
        return max((metric.step for metric in metrics), default=0)

    def _log_onnx(self, run: Mapping[str, Any], run_id: str, file: Path, step: int) -> None:
        """Log the exported file as a model of the run, once for each content."""
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        experiment = self.experiment(run["study"])
        for known in self._client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
            if known.tags.get("sha256") == digest and known.status == "READY":
                return
        import numpy as np
        import onnx
        from mlflow.models import infer_signature

        model = onnx.load(file)
        shape = [axis.dim_value or 1 for axis in model.graph.input[0].type.tensor_type.shape.dim]
        example = np.zeros(shape, dtype=np.float32)
        outputs = {model.graph.output[0].name: example[:, 0, 0, 0]}
        made = self._client.create_logged_model(
            experiment, name=run["setting"], source_run_id=run_id, tags={"sha256": digest}, model_type=ONNX_NAME
        )
        self._mlflow.onnx.log_model(
            model,
            model_id=made.model_id,
            run_id=run_id,
            step=step,
            signature=infer_signature(example, outputs),
            input_example=example,
            pip_requirements=["onnx", "onnxruntime"],  # else MLflow finds them by loading the model in a new process
            save_as_external_data=False,
        )

    def _set_status(self, run_id: str, status: str | None, time_ms: int) -> None:
        if status in ("FINISHED", "FAILED"):
            self._client.set_terminated(run_id, status, time_ms)
        elif status == "RUNNING" and self._client.get_run(run_id).info.status != status:
            self._client.update_run(run_id, status)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
