"""Which tracking store is in force, and whether it answers. Nothing here imports MLflow."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from tasks import paths

PROBE_S = 1.0
PORTS = {"http": 80, "https": 443}
URI = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

# Before MLflow is imported: no telemetry, no bars, no chatter; a server that is gone is noticed in seconds.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
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
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the checkout; a relative SQLite path is taken from there too."""
    given = os.environ.get(URI) or f"{SQLITE}mlflow.db"
    if given.startswith(SQLITE) and not given.startswith(f"{SQLITE}/") and given != SQLITE:
        return f"{SQLITE}{paths.checkout() / given.removeprefix(SQLITE)}"
    return given


def shown(address: str) -> str:
    """``address`` without a password in it."""
    parts = urlsplit(address)
    if "@" not in parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def artifact_location(address: str, experiment: str) -> str | None:
    """Where a database store keeps an experiment's artifacts; None with a server, which decides itself."""
    if address.split(":")[0].split("+")[0] not in DATABASES:
        return None
    return (paths.checkout() / "mlruns" / experiment).as_uri()


def answers(address: str) -> bool:
    """A cheap check before MLflow's own requests: False if nothing listens there. True where it cannot be told."""
    parts = urlsplit(address)
    if parts.scheme not in PORTS or parts.hostname is None:
        return True
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return True
    try:
        socket.create_connection((parts.hostname, parts.port or PORTS[parts.scheme]), PROBE_S).close()
    except OSError:
        return False
    return True
