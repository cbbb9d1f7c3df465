"""What stages do to the store: an execution of a setting, step by step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from tasks import outputs, params, paths, tracking
from tasks.tracking import desired

AWAY = "http://127.0.0.1:9"  # the discard port: nothing listens there
PULLED = {  # a run.json, as DVC restores it
    "execution_id": "e" * 32,
    "mlflow_run_id": "f" * 32,
    "study": "digits",
    "setting": "g4-c2",
    "started_at": "2026-01-02T03:04:05.000+00:00",
    "git_commit": "c" * 40,
    "params": {"G": "4", "C": "2"},
}


def start(name: str = "g4-c2") -> dict:
    params_in_use = params.load()
    return tracking.start_execution(training(name), params_in_use, params_in_use.setting(name))


def training(name: str = "g4-c2") -> Path:
    folder = Path("state/train") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def train(name: str = "g4-c2", epochs: int = 2) -> None:
    """Go on with a training that ``start`` began."""
    rows = [
        {"epoch": epoch, "condensing_stage": epoch - 1, "train_loss": 1 / epoch, "seconds": 2.0}
        for epoch in range(1, epochs + 1)
    ]
    outputs.write_csv(training(name) / paths.HISTORY, rows)
    tracking.upload()


def finish(name: str = "g4-c2") -> None:
    """What the stage train does at its end."""
    out = paths.StudyPaths("digits").setting("train", name)
    run = json.loads((training(name) / paths.RUN).read_text())
    write(out / paths.RUN, run)
    write(out / paths.HISTORY, (training(name) / paths.HISTORY).read_text())
    write(out / paths.METRICS, {"seconds": 4.0, "images_per_second": 10.0})
    write(out / paths.MODEL, "weights")
    tracking.record(run, "train", finished=True)
    shutil.rmtree(training(name))


def evaluate(run: dict, error_pct: float) -> None:
    """What the stage evaluate does at its end."""
    errors = {"top1_error_pct": error_pct}
    file = paths.StudyPaths(run["study"]).setting("evaluate", run["setting"]) / paths.METRICS
    write(file, {"pytorch": errors, "onnxruntime": errors})
    tracking.record(run, "evaluate")


def export(run: dict) -> Path:
    """What the stage export does at its end; returns its folder."""
    folder = paths.StudyPaths(run["study"]).setting("export", run["setting"])
    write(folder / paths.EXPORT, {"file_bytes": 7})
    write(folder / paths.FORMS / "plain.onnx", "as torch.onnx writes it")
    write_onnx(folder / paths.ONNX)
    tracking.record(run, "export")
    return folder


def exported(runs: list[dict], card: str) -> dict[str, dict[str, str]]:
    """What the report says of the files that ``export`` wrote."""
    files = {run["execution_id"]: desired.onnx_model(run) for run in runs}
    return {
        execution: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "card": card}
        for execution, file in files.items()
        if file is not None
    }


def runs_of(client, study: str = "digits") -> list:
    """Of settings: without the run that has them below it."""
    experiment = client.get_experiment_by_name(study)
    found = [] if experiment is None else client.search_runs([experiment.experiment_id])
    return [run for run in found if run.info.run_name != "all settings"]


def history(client, run_id: str, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, metric))


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def write_onnx(file: Path, weight: float = 1.0) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.full((4, 3), weight, np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return file


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
