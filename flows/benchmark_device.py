"""The flow ``benchmark-device``: time the model of an MLflow run on the machine where the worker runs.

The device needs Python, NumPy, ONNX Runtime, the clients of Prefect and MLflow (``mlflow-skinny`` is enough) and this
package, installed without its dependencies: nothing here imports torch, Ray or DVC. docs/OPERATORS.md explains how.

The results are added to the same run: metrics ``latency/ms_<device>`` and ``latency/ratio_<device>`` (batch 1, one
thread; ``..._b16_t2`` for other cases, ``latency/ms_plain_<device>`` for another file of the run), a tag
``device.<device>`` with the hardware, and the full report in the artifact ``benchmark/<device>.json``.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Failed

from condensenet.deploy.latency.measure import MIN_RUNS, WARMUP, check_protocol
from condensenet.deploy.latency.time_files import describe, time_files
from condensenet.text import message_of
from flows.exported_run import MODEL, ExportedRun, NotLogged
from tasks.errors import UserError
from tasks.paths import ALL_FORMS

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


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
    """Time the exported model of an MLflow run here, alternating with MobileNetV1, and add the results to the run.

    Args:
        run_id: The MLflow run; ``out/<study>/train/<setting>/run.json`` has its id.
        device: The device's name in the metrics: lower-case letters, digits, dashes.
        tracking_uri: The MLflow server. Default: the worker's MLFLOW_TRACKING_URI.
        files: More ONNX files to time, artifacts of the run, for example forms/plain.onnx.
        batch_sizes: Default: 1.
        threads: Default: 1 and 0, which stands for all usable cores.
        runs: Measured rounds, 50 or more.
        warmup: Rounds before them.
    """
    log = get_run_logger()
    batch_sizes, threads = batch_sizes or [1], threads or [1, 0]
    try:
        check_names(device, files or ())
        check_protocol(batch_sizes, threads, runs, warmup)
        run = ExportedRun(run_id, tracking_uri)
        with tempfile.TemporaryDirectory() as folder:
            models = run.download(files or (), Path(folder))
            report = time_files(models, batch_sizes=batch_sizes, threads=threads, runs=runs, warmup=warmup)
        lines = list(describe(report))
        for line in lines:
            log.info(line)
        report = {"device": device, "run_id": run_id, "measured_at_ms": round(1000 * time.time()), **report}
        run.add(device, report)
    except NotLogged as error:  # the measurement took minutes: keep it in the flow's log
        log.warning("not added to the run: %s", json.dumps(report))
        return Failed(message=str(error))
    except (UserError, ValueError, ImportError) as error:
        return Failed(message=message_of(error))
    return lines


def check_names(device: str, files: Sequence[str]) -> None:
    """Raises ``UserError`` for a device that cannot be part of a metric's name, or files that are no ONNX artifacts."""
    if not NAME.fullmatch(device) or device in ALL_FORMS:  # latency/ms_plain belongs to no device
        raise UserError(
            f"device={device!r} is not allowed: up to 40 lower-case letters, digits and dashes between them, "
            f"and none of {', '.join(ALL_FORMS)}"
        )
    for file in files:
        path = PurePosixPath(file)
        if path.suffix != ".onnx" or path.is_absolute() or ".." in path.parts or not NAME.fullmatch(path.stem):
            raise UserError(f"files: {file!r} is not allowed: an artifact's path, for example forms/plain.onnx")
    if len({PurePosixPath(file).stem for file in files} - {MODEL}) < len(files):
        raise UserError(f"files={list(files)} is not allowed: the names must differ, and none may be {MODEL}.onnx")
