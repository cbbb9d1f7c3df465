"""Prefect flows over the stage graph of ``dvc.yaml``. Importing it turns their telemetry off."""

import os

os.environ["PYTHONUTF8"] = "1"  # of what is started: else DVC cannot name files beyond ASCII in the locale C

for name, value in {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}.items():
    os.environ.setdefault(name, value)
