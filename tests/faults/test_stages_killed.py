"""Stages killed with SIGKILL at random moments: no half of a file is ever seen, and the next run leaves nothing behind.

CONDENSENET_KILLS=100 kills each of them a hundred times; CONDENSENET_SEED=7 does it at other moments.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.process
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import exported_study
import onnx
import pytest
import torch
from exported_study import SETTING

from condensenet.models.condensenet import CondenseNet
from condensenet.models.storage import save_model
from tasks import outputs, paths
from tasks.params import Params

TIMEOUT_S = 300
KILLS = int(os.environ.get("CONDENSENET_KILLS", "2"))
SEED = int(os.environ.get("CONDENSENET_SEED", "0"))
STAGES = ("convert", "yardstick", "export", "evaluate", "benchmark", "report")
ARGUMENTS = {"yardstick": (), "report": (), "track": ("--restore",)}  # of the others: the setting
TIMED = {paths.LATENCY, paths.EXPORT}  # with what was measured, which differs from run to run
INT8 = f"{paths.INT8}.onnx"  # is kept or not, as it was fast or not
EPOCH = ("learning_rate", "train_loss", "group_lasso", "train_error_pct", "validation_loss", "validation_error_pct")
THEIRS = ("torchinductor_", "ort.quant.")  # temporary folders of PyTorch and ONNX Runtime


@dataclass
class Stages:
    """Stages that run in ``folder``, always the same one, since MLflow's database names it."""

    folder: Path
    before: Path  # a copy of the folder as it was before each stage, and at the end
    seconds: dict[str, float] = field(default_factory=dict)  # what each stage takes

    def start(self, stage: str) -> multiprocessing.process.BaseProcess:
        """Returns when the stage is about to begin, all that it needs imported."""
        arguments = ARGUMENTS.get(stage, (SETTING,))
        context = multiprocessing.get_context("forkserver")
        begun, begins = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(stage, arguments, self.folder, begins), daemon=True)
        process.start()
        begins.close()
        with begun:
            assert begun.poll(TIMEOUT_S)
            assert begun.recv() == stage
        return process

    def finish(self, stage: str) -> float:
        """Run it to its end; returns how long that took."""
        process = self.start(stage)
        started = time.monotonic()
        process.join(TIMEOUT_S)
        assert process.exitcode == 0, (self.folder / "printed").read_text()
        return time.monotonic() - started

    def kill(self, stage: str, seconds: float) -> None:
        process = self.start(stage)
        process.join(seconds)
        process.kill()
        process.join(TIMEOUT_S)
        assert process.exitcode in (0, -signal.SIGKILL), (self.folder / "printed").read_text()
        for draft in (self.folder / "state").rglob(".draft-*"):  # as if an hour had passed: then they may go
            for path in (draft, *draft.rglob("*")):
                os.utime(path, (0, 0))

    def keep(self, stage: str) -> None:
        shutil.copytree(self.folder, self.before / stage)

    def restore(self, stage: str) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.before / stage, self.folder)


def _run(stage: str, arguments: tuple[str, ...], folder: Path, begins: Connection) -> None:
    import killed_stages

    with begins:
        begins.send(stage)
    killed_stages.run(stage, arguments, folder)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, checkout: Path, forkserver: None) -> Iterator[Stages]:
    """All of them were run once, undisturbed."""
    made = Stages(tmp_path_factory.mktemp("stages") / "work", tmp_path_factory.mktemp("before"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (made.folder / "tmp").mkdir(parents=True)
        patch.chdir(made.folder)
        write_trained(exported_study.write_study(checkout))
        (made.folder / paths.PUBLISHED).parent.mkdir()
        shutil.copy(checkout / paths.PUBLISHED, paths.PUBLISHED)
        for stage in STAGES:
            made.keep(stage)
            made.seconds[stage] = made.finish(stage)
        made.keep("end")
        patch.chdir(checkout)  # the folder is about to be replaced
        yield made


def write_trained(params: Params) -> None:
    """What the stage train would have left."""
    torch.manual_seed(0)
    model = CondenseNet(params.settings[SETTING].model)
    model.condense_to(model.num_condensing_stages)
    folder = params.paths.setting("train", SETTING)
    shutil.rmtree(params.paths.root / "convert")
    save_model(model.eval(), folder / paths.MODEL)
    row = {"epoch": 1, "condensing_stage": 1, **dict.fromkeys(EPOCH, 1.0), "kept_pct": 25.0, "seconds": 1.0}
    outputs.write_csv(folder / paths.HISTORY, [row])
    facts = {"epochs": 1, "validation_split": "test", "images_per_second": 1.0, "num_workers": 2}
    outputs.write_json(folder / paths.METRICS, {**row, **facts})


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "yardstick"])  # writes as export does
def test_the_next_run_ends_as_if_nothing_had_been(stage: str, stages: Stages) -> None:
    stages.restore(stage)
    undisturbed = stages.before / [*STAGES, "end"][STAGES.index(stage) + 1]
    draw = random.Random(f"{SEED} {stage}")
    for _ in range(KILLS):
        seconds = draw.uniform(0, stages.seconds[stage])
        print(f"CONDENSENET_SEED={SEED}: {stage} is killed after {seconds:.3f} s of {stages.seconds[stage]:.3f}")
        stages.kill(stage, seconds)
        assert_whole(stages.folder, undisturbed)
    stages.finish(stage)
    assert_whole(stages.folder, undisturbed)
    assert files(stages.folder / "out") - {INT8} == files(undisturbed / "out") - {INT8}
    assert files(stages.folder / "state") == files(undisturbed / "state")
    assert [path.name for path in (stages.folder / "tmp").iterdir() if not path.name.startswith(THEIRS)] == []
    assert runs(stages.folder) == runs(undisturbed)
    assert {status for _, status in runs(stages.folder)} <= {"FINISHED"}


def test_another_checkout_restores_each_run_once(stages: Stages) -> None:
    def without_store() -> None:
        stages.restore("end")
        (stages.folder / "mlflow.db").unlink()
        for name in ("mlruns", "state/tracking"):
            shutil.rmtree(stages.folder / name)

    without_store()
    seconds = stages.finish("track")
    undisturbed = contents(stages.folder)
    assert undisturbed
    without_store()
    draw = random.Random(f"{SEED} track")
    for _ in range(KILLS):
        after = draw.uniform(0, seconds)
        print(f"CONDENSENET_SEED={SEED}: track is killed after {after:.3f} s of {seconds:.3f}")
        stages.kill("track", after)
    stages.finish("track")
    assert contents(stages.folder) == undisturbed


def assert_whole(folder: Path, undisturbed: Path) -> None:
    """Every file with a name of its own is what an undisturbed run writes."""
    for path in (folder / "out").rglob("[!.]*"):
        if path.name == INT8:
            onnx.checker.check_model(str(path))
        elif path.name in TIMED:
            json.loads(path.read_text())
        elif path.is_file():
            assert path.read_bytes() == (undisturbed / path.relative_to(folder)).read_bytes(), path


def files(folder: Path) -> set[str]:
    return {path.name if path.name == INT8 else str(path.relative_to(folder)) for path in folder.rglob("*")}


def contents(folder: Path) -> list[tuple[str, str, int, int]]:
    """Of each run in MLflow name, status and how many points of metrics and artifacts it has."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        points = "SELECT count(*) FROM metrics WHERE metrics.run_uuid = runs.run_uuid"
        rows = database.execute(
            f"SELECT name, status, ({points}), artifact_uri FROM runs WHERE lifecycle_stage = 'active'"
        )
        return sorted((*row, len([*Path(uri.removeprefix("file://")).rglob("*")])) for *row, uri in rows)


def runs(folder: Path) -> list[tuple[str, str]]:
    """Name and status of each run in MLflow."""
    if not (folder / "mlflow.db").exists():
        return []
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return sorted(database.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active'"))
