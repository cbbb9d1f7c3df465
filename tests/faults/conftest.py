from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from trainings import uninterrupted  # noqa: F401


@pytest.fixture(scope="session")
def forkserver(checkout: Path) -> None:
    """Imports once what the processes that are killed need. There is one for all tests, so it imports what all need.

    It looks for it where this process was told to by its environment.
    """
    tests = checkout / "tests"
    with pytest.MonkeyPatch.context() as patch:
        known = os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, [checkout, tests, tests / "faults", known])))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["killing", "killed_stages"])
        process = context.Process(target=int)
        process.start()  # and with it the server, which hands its environment on
        process.join()
