"""Prefect flows over the stage graph of ``dvc.yaml``. Importing it turns their telemetry off."""

import os

from tasks import telemetry

os.environ["PYTHONUTF8"] = "1"  # of what is started: else DVC cannot name files beyond ASCII in the locale C

for name, value in telemetry.OFF.items():
    os.environ.setdefault(name, value)
