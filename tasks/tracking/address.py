"""Which tracking store is in force. Nothing here imports MLflow."""

from __future__ import annotations

import os

from tasks import paths, telemetry
from tasks.errors import UserError

URI = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

# Before MLflow is imported: no telemetry, no bars, no chatter; a server that is gone is noticed in seconds.
ENVIRONMENT = {
    **telemetry.OFF,  # MLflow's, and that of ONNX Runtime, which it imports
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "300",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Rejected(Exception):
    """The store answers and will never take this snapshot."""


class Unreachable(Exception):
    """The store does not answer, or not as it should; trying again later may help."""


class UnknownRun(Exception):
    """The store has no run of the execution that a later stage adds to."""


def uri() -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the checkout; a relative SQLite path is taken from there too.

    Raises ``UserError`` where such an address would name a file elsewhere.
    """
    given = os.environ.get(URI) or f"{SQLITE}mlflow.db"
    if given.startswith(SQLITE) and not given.startswith(f"{SQLITE}/") and given != SQLITE:
        if "?" in str(paths.checkout()):  # where the path ends in an address
            raise UserError(f"{paths.checkout()}: no ? is allowed in the path of mlflow.db: rename it, or set {URI}")
        return f"{SQLITE}{paths.checkout() / given.removeprefix(SQLITE)}"
    return given


def artifact_location(address: str, experiment: str) -> str | None:
    """Where a database store keeps an experiment's artifacts; None with a server, which decides itself."""
    if address.split(":")[0].split("+")[0] not in DATABASES:
        return None
    return (paths.checkout() / "mlruns" / experiment).as_uri()
