"""The train stage with an object store in place of a folder, stopped and killed: the bits stay the same."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from object_server import BUCKET, object_server
from trainings import EPOCHS, Checkout, Stage, finish, history, wait_for, weights

STEPS = 5 * EPOCHS


def train_on(folder: Checkout) -> Stage:
    process, done = folder.start(), folder.epochs_done
    wait_for(lambda: folder.epochs_done > done + 1, process)
    return process


def test_stopped_and_killed_training_goes_on(tmp_path: Path, checkout: Path, uninterrupted: Path) -> None:
    with object_server(tmp_path / "s3.log") as variables:
        uri, storage = f"sqlite:///{tmp_path}/mlflow.db", f"s3://{BUCKET}/killed"
        folder = Checkout(tmp_path / "checkout", checkout, uri, storage=storage)
        folder.env.update(variables)

        process = train_on(folder)
        process.send_signal(signal.SIGTERM)
        output = finish(process, 143)
        paused = re.search(rf"^paused after step (\d+) of {STEPS}: run it again to resume from there$", output, re.M)
        assert paused, output

        process = train_on(folder)
        process.kill()  # its leases stay, and its Ray ends with it
        assert f"resumed after step {paused[1]} " in process.end()

        output = finish(folder.start())
        assert "waiting for another process that works in s3://" in output
        assert "resumed after step" in output
        assert weights(folder.out) == weights(uninterrupted)
        assert history(folder.out) == history(uninterrupted)
        assert folder.state is None
