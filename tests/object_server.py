"""An object store that speaks S3, for tests: moto's server, with one bucket."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from workspaces import free_ports

from tasks import object_store

BUCKET = "trainings"
CREATE = """
import os
from pyarrow.fs import S3FileSystem
filesystem = S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True)
filesystem.create_dir("%s")
"""


@contextmanager
def object_server(
    log: Path, host: str = "127.0.0.1", port: int | None = None, prefix: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """Run the server, by a command that begins with ``prefix``; yields the variables that lead to it."""
    port = port or free_ports(1)[0]
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    environment = {**os.environ, **variables}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*prefix, sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while "Running on" not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            subprocess.run([*prefix, sys.executable, "-c", CREATE % BUCKET], env=environment, check=True)
            yield variables
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        object_server(tmp_path_factory.mktemp("s3") / "log") as variables,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        object_store.filesystem.cache_clear()
        yield
    object_store.filesystem.cache_clear()
