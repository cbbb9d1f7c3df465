"""``mlflow server`` with passwords; MLflow reads one of its settings from nothing but a file, which this writes.

    python -m cluster.mlflow_server --host 127.0.0.1 --port 5000

All else comes from the environment: ``REQUIRED`` says what. The file is in a new temporary folder, or where
``CLUSTER_MLFLOW_AUTH_FILE`` says. Arguments are passed on to ``mlflow server``.
"""

from __future__ import annotations

import argparse
import configparser
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import UserError, run_main
from tasks.private_files import write_private

REQUIRED = {
    "MLFLOW_BACKEND_STORE_URI": "the database of runs, postgresql+psycopg://user:password@host/mlflow",
    "MLFLOW_AUTH_DATABASE_URI": "the database of users, postgresql+psycopg://user:password@host/mlflow_auth",
    "MLFLOW_ARTIFACTS_DESTINATION": "where artifacts go, s3://bucket or a folder",
    "MLFLOW_AUTH_ADMIN_USERNAME": "the name of the administrator",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "the administrator's password, of 12 characters or more",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret, the same in every process of the server",
}
FIXED = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
FILE = "CLUSTER_MLFLOW_AUTH_FILE"  # names the file that we write, and replace at every start
THEIRS = "MLFLOW_AUTH_CONFIG_PATH"  # names the file that MLflow reads
COMMAND = ("server", "--app-name", "basic-auth", "--workers", "1")
MIN_PASSWORD = 12


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.mlflow_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _, passed_on = parser.parse_known_args()
    check(os.environ)
    given = os.environ.get(FILE)
    path = Path(given) if given else Path(tempfile.mkdtemp(prefix="cn-mlflow-")) / "auth.ini"
    write_private(path, auth_config(os.environ["MLFLOW_AUTH_DATABASE_URI"]))
    environment = {**os.environ, **FIXED, THEIRS: str(path)}
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", *COMMAND, *passed_on], environment)


def check(environment: Mapping[str, str]) -> None:
    """Raises ``UserError`` for the first variable that is missing or not allowed."""
    if environment.get(THEIRS):
        raise UserError(f"{THEIRS} is not allowed: it is written here; with your own, start mlflow server itself")
    for name, meaning in REQUIRED.items():
        if not environment.get(name):
            raise UserError(f"{name} is missing: {meaning}")
        if environment[name].startswith(("postgresql://", "postgres://")):
            raise UserError(f"{name} names no driver: write postgresql+psycopg:// in place of postgresql://")
    if len(environment["MLFLOW_AUTH_ADMIN_PASSWORD"]) < MIN_PASSWORD:
        raise UserError(f"MLFLOW_AUTH_ADMIN_PASSWORD is too short: it needs {MIN_PASSWORD} characters or more")


def auth_config(database_uri: str) -> str:
    """The text of MLflow's ``basic_auth.ini``; users without a grant may read, and the administrator may do all."""
    lines = ("[mlflow]", "default_permission = READ", f"database_uri = {database_uri.replace('%', '%%')}", "")
    text = "\n".join(lines)
    configparser.ConfigParser().read_string(text)
    return text


if __name__ == "__main__":
    run_main(main)
