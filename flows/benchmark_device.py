"""The flow ``benchmark-device``: time the model of an MLflow run on the device that a worker runs on.

The device needs Python, NumPy, ONNX Runtime, the clients of Prefect and MLflow (``mlflow-skinny`` will do) and this
package, installed without its dependencies: nothing here imports torch, Ray or DVC. docs/OPERATORS.md says how.

What it measures goes to the same run: metrics ``latency_ms_<device>`` and ``latency_ratio_<device>`` (batch 1 on one
thread; ``..._b16_t2`` of the others, ``latency_ms_plain_<device>`` of another file of the run), a tag
``device.<device>`` with the hardware, and everything in the artifact ``benchmark/<device>.json``.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from prefect import flow, get_run_logger
from prefect.states import Failed

from condensenet.deploy.latency.files import WARMUP, describe, time_files
from condensenet.deploy.latency.measure import MIN_RUNS, check_protocol
from tasks.errors import UserError
from tasks.paths import ALL_FORMS
from tasks.tracking import server

DEVICE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
MODEL = "model.onnx"  # the file's name in the model that the stage export logs
MAIN = "model"
FOLDER = "benchmark"
ATTEMPTS, PAUSE_S = 5, 5.0


@flow(name="benchmark-device", retries=0)
def benchmark_device(
    run_id: str,
    device: str,
    tracking_uri: str | None = None,
    files: list[str] | None = None,
    batch_sizes: list[int] | None = None,
    threads: list[int] | None = None,
    runs: int = MIN_RUNS,
    warmup: int = WARMUP,
) -> Any:
    """Time the exported model of an MLflow run here, in turn with MobileNetV1, and add what was found to the run.

    Args:
        run_id: The MLflow run; ``out/<study>/train/<setting>/run.json`` names it.
        device: What the device is called in the metrics: lower-case letters, digits, dashes.
        tracking_uri: The MLflow server. Left out: MLFLOW_TRACKING_URI of the worker.
        files: Other ONNX files to time, artifacts of the run, for example forms/plain.onnx.
        batch_sizes: Left out: 1.
        threads: Left out: 1 and 0, which stands for all usable cores.
        runs: Rounds that count, 50 or more.
        warmup: Rounds before them.
    """
    log = get_run_logger()
    batch_sizes, threads = batch_sizes or [1], threads or [1, 0]
    try:
        check_names(device, files or ())
        check_protocol(batch_sizes, threads, runs, warmup)
        run = Run(run_id, tracking_uri)
        with tempfile.TemporaryDirectory() as folder:
            models = run.download(files or (), Path(folder))
            facts = time_files(models, batch_sizes=batch_sizes, threads=threads, runs=runs, warmup=warmup)
        lines = list(describe(facts))
        for line in lines:
            log.info(line)
        facts = {"device": device, "run_id": run_id, "measured_at_ms": round(1000 * time.time()), **facts}
        run.add(device, facts)
    except NotAdded as error:  # it took minutes to measure: the flow's log keeps it
        log.warning("not added to the run: %s", json.dumps(facts))
        return Failed(message=str(error))
    except (UserError, ValueError, ImportError) as error:
        return Failed(message=" ".join(str(error).split()))
    return lines


class NotAdded(Exception):
    """The measurement was made, the tracking server did not take it."""


def check_names(device: str, files: Sequence[str]) -> None:
    """Raises ``UserError`` for a device that cannot be part of a metric's name, and for what is no ONNX file's path."""
    if not DEVICE.fullmatch(device) or device in ALL_FORMS:  # latency_ms_plain is no device's
        raise UserError(
            f"device={device!r} is not allowed: up to 40 lower-case letters, digits and dashes within, "
            f"and none of {', '.join(ALL_FORMS)}"
        )
    for file in files:
        path = PurePosixPath(file)
        if path.suffix != ".onnx" or path.is_absolute() or ".." in path.parts or not DEVICE.fullmatch(path.stem):
            raise UserError(f"files: {file!r} is not allowed: a path of an artifact, for example forms/plain.onnx")
    if len({PurePosixPath(file).stem for file in files} - {MAIN}) < len(files):
        raise UserError(f"files={list(files)} is not allowed: names that differ, and none called {MAIN}.onnx")


def metrics(device: str, facts: Mapping[str, Any]) -> dict[str, float]:
    """``latency_ms_<device>`` and ``latency_ratio_<device>`` of every row, named by form, batch and threads."""
    return dict(_metrics(device, facts["rows"]))


def _metrics(device: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for row in rows:
        form = "" if row["model"] == MAIN else f"_{row['model']}"
        case = "" if (row["batch"], row["threads"]) == (1, 1) else f"_b{row['batch']}_t{row['threads']}"
        yield f"latency_ms{form}_{device}{case}", row["median_ms"]
        yield f"latency_ratio{form}_{device}{case}", row["ratio"]


class Run:
    """A finished MLflow run with an exported model. Raises ``UserError``, before any work, if it is not."""

    def __init__(self, run_id: str, tracking_uri: str | None) -> None:
        self.uri = tracking_uri or os.environ.get(server.URI) or ""
        if not self.uri:
            raise UserError(f"tracking_uri is missing: pass it, or set {server.URI} where the worker starts")
        if not _is_server(self.uri):
            raise UserError(f"tracking_uri={self.uri!r} is not allowed: the address of a server, http://host:port")
        if not server.answers(self.uri):
            raise UserError(f"tracking_uri={server.shown(self.uri)!r} does not answer")
        self.client = _client(self.uri)
        self.run_id = run_id
        with _telling(f"run_id={run_id!r} cannot be had of {server.shown(self.uri)}"):
            run = self.client.get_run(run_id)
            models = self.client.search_logged_models(
                [run.info.experiment_id], f"source_run_id = '{run_id}'", max_results=100
            )
        if run.info.status != "FINISHED" or run.info.lifecycle_stage != "active":
            state = run.info.status if run.info.lifecycle_stage == "active" else run.info.lifecycle_stage
            raise UserError(f"run_id={run_id!r} is {state}: only a run that is FINISHED is timed")
        ready = sorted((model for model in models if model.status == "READY"), key=lambda m: m.creation_timestamp)
        if not ready:
            raise UserError(f"run_id={run_id!r} has no exported model: run dvc repro export@SETTING first")
        self.model = ready[-1]
        self.artifacts = run.info.artifact_uri

    def download(self, files: Sequence[str], folder: Path) -> dict[str, Path]:
        """The exported model and the artifacts ``files``, by the names that their rows and metrics get."""
        sources = {MAIN: f"{self.model.artifact_location}/{MODEL}"}
        sources |= {PurePosixPath(file).stem: f"{self.artifacts}/{file}" for file in files}
        return {name: self._fetch(source, folder / name) for name, source in sources.items()}

    def _fetch(self, source: str, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        with _telling(f"{source} cannot be had of {server.shown(self.uri)}"):
            return Path(download_artifacts(source, dst_path=str(folder), tracking_uri=self.uri))

    def add(self, device: str, facts: Mapping[str, Any]) -> None:
        """Log to the run, again after a pause if the server is away; raises ``NotAdded`` in the end."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _telling(f"{server.shown(self.uri)} does not take what was measured"):
                    self._log(device, facts)
                return
            except UserError as error:
                if attempt == ATTEMPTS:
                    raise NotAdded(str(error)) from error
            time.sleep(PAUSE_S)

    def _log(self, device: str, facts: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        self.client.log_dict(self.run_id, dict(facts), f"{FOLDER}/{device}.json")
        self.client.set_tag(self.run_id, f"device.{device}", next(describe(facts)))
        at, model_id = facts["measured_at_ms"], self.model.model_id
        points = [Metric(name, value, at, 0, model_id=model_id) for name, value in metrics(device, facts).items()]
        self.client.log_batch(self.run_id, metrics=points)


def _is_server(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return parts.scheme in server.PORTS and bool(parts.hostname) and parts.port != 0  # port: ValueError if none
    except ValueError:
        return False


def _client(uri: str) -> Any:
    for name, value in server.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise UserError("the device needs MLflow's client: pip install mlflow-skinny") from error
    return MlflowClient(uri)


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """What MLflow raises, as a ``UserError`` of one line that begins with ``what``."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{what}: {first}") from error
