"""Environment variables by which the libraries in use report nothing to their makers. Each reads its own on import.

The Makefile, cluster/Dockerfile, cluster/slurm/train.sbatch and docs/OPERATORS.md list the same ones.
"""

from __future__ import annotations

NOWHERE = "http://127.0.0.1:9"  # the discard port of the loopback
OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": NOWHERE,  # with its statistics off, Ray's head still reports that they are
}
