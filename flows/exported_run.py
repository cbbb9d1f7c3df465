"""A finished MLflow run with an exported model: download the model, add latencies measured on a device."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from condensenet.deploy.latency.time_files import describe
from tasks import server_addresses
from tasks.errors import UserError, first_line
from tasks.paths import ONNX
from tasks.tracking import address

MODEL = "model"  # the exported model's name in the report's rows
ATTEMPTS, RETRY_S = 5, 5.0


class NotLogged(Exception):
    """The measurement is complete, but the tracking server did not accept it."""


class ExportedRun:
    """The run ``run_id`` of an MLflow server. Raises ``UserError`` unless it is finished and has an exported model."""

    def __init__(self, run_id: str, tracking_uri: str | None) -> None:
        self.run_id, self.uri = run_id, _server_address(tracking_uri)
        self.client = _client(self.uri)
        with _mlflow_errors(f"cannot read run_id={run_id!r} from {server_addresses.without_secrets(self.uri)}"):
            run = self.client.get_run(run_id)
            models = self.client.search_logged_models(
                [run.info.experiment_id], f"source_run_id = '{run_id}'", max_results=100
            )
        status = run.info.status if run.info.lifecycle_stage == "active" else run.info.lifecycle_stage
        if status != "FINISHED":
            raise UserError(f"run_id={run_id!r} is {status}: only a FINISHED run can be timed")
        ready = [model for model in models if model.status == "READY"]
        if not ready:
            raise UserError(f"run_id={run_id!r} has no model: it must be a setting's, after dvc repro export@SETTING")
        self.model = max(ready, key=lambda model: model.creation_timestamp)
        self.artifacts = run.info.artifact_uri

    def download(self, files: Sequence[str], folder: Path) -> dict[str, Path]:
        """The exported model and the artifacts ``files``, by their names in rows and metrics."""
        sources = {MODEL: f"{self.model.artifact_location}/{ONNX}"}
        sources |= {PurePosixPath(file).stem: f"{self.artifacts}/{file}" for file in files}
        return {name: self._fetch(source, folder / name) for name, source in sources.items()}

    def _fetch(self, source: str, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        with _mlflow_errors(f"cannot download {source} from {server_addresses.without_secrets(self.uri)}"):
            return Path(download_artifacts(source, dst_path=str(folder), tracking_uri=self.uri))

    def add(self, device: str, report: Mapping[str, Any]) -> None:
        """Log the report to the run; retries while the server is away and raises ``NotLogged`` in the end."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _mlflow_errors(f"{server_addresses.without_secrets(self.uri)} did not accept the measurement"):
                    self._log(device, report)
                return
            except UserError as error:
                if attempt == ATTEMPTS:
                    raise NotLogged(str(error)) from error
            time.sleep(RETRY_S)

    def _log(self, device: str, report: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        self.client.log_dict(self.run_id, dict(report), f"benchmark/{device}.json")
        self.client.set_tag(self.run_id, f"device.{device}", next(describe(report)))
        timestamp, model_id = report["measured_at_ms"], self.model.model_id
        values = device_metrics(device, report["rows"])
        points = [Metric(name, value, timestamp, 0, model_id=model_id) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=points)


def device_metrics(device: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``latency/ms_<device>`` and ``latency/ratio_<device>`` of each row, named by form, batch and threads."""
    values = {}
    for row in rows:
        form = "" if row["model"] == MODEL else f"_{row['model']}"
        case = "" if (row["batch"], row["threads"]) == (1, 1) else f"_b{row['batch']}_t{row['threads']}"
        values[f"latency/ms{form}_{device}{case}"] = row["median_ms"]
        values[f"latency/ratio{form}_{device}{case}"] = row["ratio"]
    return values


def _server_address(tracking_uri: str | None) -> str:
    uri = tracking_uri or os.environ.get(address.URI)
    if not uri:
        raise UserError(f"tracking_uri is missing: pass it, or set {address.URI} where the worker starts")
    if not _is_server(uri):
        raise UserError(f"tracking_uri={uri!r} is not allowed: a server's address, http://host:port")
    if not server_addresses.answers(uri):
        raise UserError(f"tracking_uri={server_addresses.without_secrets(uri)!r} does not answer")
    return uri


def _is_server(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        is_server = parts.scheme in server_addresses.PORTS and bool(parts.hostname)
        return is_server and parts.port != 0  # port may raise ValueError
    except ValueError:
        return False


def _client(uri: str) -> Any:
    for name, value in address.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise UserError("the device needs MLflow's client: pip install mlflow-skinny") from error
    return MlflowClient(uri)


@contextmanager
def _mlflow_errors(problem: str) -> Iterator[None]:
    """Turn what MLflow raises into a ``UserError`` of one line that begins with ``problem``."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{problem}: {server_addresses.without_secrets(first_line(error))}") from error
