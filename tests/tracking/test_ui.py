"""`condensenet ui`: the MLflow UI on a folder's runs, until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

DEADLINE_S = 180.0  # 10 s on a machine with nothing else to do


def test_it_serves_until_ctrl_c_and_leaves_no_process(tmp_path: Path, fresh_store: Path, checkout: Path) -> None:
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    shutil.copy(checkout / "params.yaml", tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = tmp_path / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "ui", str(tmp_path), "--port", str(port)],
            env={**os.environ, "PYTHONPATH": str(checkout), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
            stdout=file,
            stderr=file,
            start_new_session=True,  # a terminal's Ctrl-C reaches all of them
        )
    try:
        page = await_page(f"http://127.0.0.1:{port}/", process)
        assert "MLflow" in page, output.read_text()
        os.killpg(process.pid, signal.SIGINT)
        status = process.wait(DEADLINE_S)
        assert status == 0, output.read_text()
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def await_page(address: str, process: subprocess.Popen[bytes]) -> str:
    """What is there once the server answers with status 200; empty if it ends before, or never does."""
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:  # other statuses are errors
            return answer.read().decode()
        time.sleep(0.2)
    return ""
