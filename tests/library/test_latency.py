"""The benchmark protocol: statistics by hand, models in turn, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condensenet import machine
from condensenet.deploy import runtime
from condensenet.deploy.latency import measure
from condensenet.deploy.latency.measure import measure_latency, summarise
from condensenet.deploy.runtime import open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def write_model(path: Path, size: int = 4, opset: int = 18, batch: int | str = "batch") -> Path:
    """image (batch, 1, size, size) -> ReLU."""
    shape = [batch, 1, size, size]
    image, logits = (onnx.helper.make_tensor_value_info(name, 1, shape) for name in ("image", "logits"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["image"], ["logits"])], "g", [image], [logits])
    opsets = [onnx.helper.make_opsetid("", opset)]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def test_the_statistics_of_hand_made_rounds() -> None:
    times_ms = np.array([2.0, 4.0, 6.0, 8.0, 10.0])
    yardstick_ms = np.array([1.0, 4.0, 2.0, 2.0, 1.0])
    row = summarise("m", batch=4, threads=2, times_ms=times_ms, yardstick_ms=yardstick_ms)
    assert (row.model, row.batch, row.threads) == ("m", 4, 2)
    assert (row.p10_ms, row.median_ms, row.p90_ms) == pytest.approx((2.8, 6.0, 9.2))
    assert (row.yardstick_p10_ms, row.yardstick_median_ms, row.yardstick_p90_ms) == pytest.approx((1.0, 2.0, 3.2))
    # the rounds' ratios are 2, 1, 3, 4, 10
    assert (row.ratio_p10, row.ratio, row.ratio_p90) == pytest.approx((1.4, 3.0, 7.6))
    assert row.images_per_second == pytest.approx(4 / 6e-3)


def test_the_ratio_is_taken_round_by_round() -> None:
    # ratios 1, 1 and 2.5; the ratio of the medians would be 5 / 2
    row = summarise("m", 1, 1, times_ms=np.array([1.0, 5.0, 5.0]), yardstick_ms=np.array([1.0, 5.0, 2.0]))
    assert row.ratio == 1.0


@pytest.mark.parametrize(("rounds", "yardstick_rounds"), [(2, 1), (0, 0)])
def test_rounds_that_do_not_pair_are_refused(rounds: int, yardstick_rounds: int) -> None:
    with pytest.raises(ValueError, match="do not pair"):
        summarise("m", 1, 1, np.ones(rounds), np.ones(yardstick_rounds))


class Recorder:
    """A session that records its runs: its name and the number of images."""

    def __init__(self, name: str, runs: list[tuple[str, int]]) -> None:
        self.name, self.runs = name, runs

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "image", "shape": ["batch", 1, 4, 4]})]

    def run(self, names: None, feed: dict[str, np.ndarray]) -> None:
        self.runs.append((self.name, len(feed["image"])))


def test_a_model_runs_before_and_after_the_reference_model_and_the_warm_up_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[tuple[str, int]] = []
    monkeypatch.setattr(measure, "open_session", lambda path, threads: Recorder(str(path), runs))
    models = {"a": "a", "b": "b", "yard": "yard"}
    rows = measure_latency(models, yardstick="yard", batch_sizes=(1, 3), threads=(1,), runs=50, warmup=2)
    checked, in_a_round = ["yard", "a", "b"], ["a", "yard", "a", "b", "yard", "b"]
    assert runs == [(name, batch) for batch in (1, 3) for name in checked + in_a_round * 52]
    assert [(row.model, row.batch, row.threads) for row in rows] == [("a", 1, 1), ("b", 1, 1), ("a", 3, 1), ("b", 3, 1)]


def test_a_real_file_is_timed_with_one_and_with_all_threads(tmp_path: Path) -> None:
    models = {name: write_model(tmp_path / f"{name}.onnx") for name in ("small", "yard")}
    rows = measure_latency(models, yardstick="yard", batch_sizes=(1, 4, 1), threads=(1, 0))
    threads = list(dict.fromkeys((1, machine.usable_cores())))
    assert [(row.threads, row.batch) for row in rows] == [(count, batch) for count in threads for batch in (1, 4)]
    for row in rows:
        assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms
        assert row.ratio_p10 <= row.ratio <= row.ratio_p90


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"yardstick": "other"}, "yardstick='other' is not allowed"),
        ({"runs": 49}, "runs=49"),
        ({"warmup": 0}, "warmup=0"),
        ({"batch_sizes": (0,)}, r"batch_sizes=\(0,\)"),
        ({"batch_sizes": ()}, r"batch_sizes=\(\)"),
        ({"threads": (-1,)}, r"threads=\(-1,\)"),
        ({"threads": (1, 1025)}, r"threads=\(1, 1025\) is not allowed: .* threads of 0 \(all\) to 1024"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_latency({"a": "a.onnx", "yard": "b.onnx"}, **{"yardstick": "yard", **change})


def test_models_of_different_input_sizes_are_refused(tmp_path: Path) -> None:
    models = {"a": write_model(tmp_path / "a.onnx", 4), "yard": write_model(tmp_path / "b.onnx", 8)}
    with pytest.raises(ValueError, match="different shapes"):
        measure_latency(models, yardstick="yard")


def test_a_file_that_does_not_run_on_the_batch_is_one_line(tmp_path: Path) -> None:
    models = {"a": write_model(tmp_path / "a.onnx", batch=1), "yard": write_model(tmp_path / "b.onnx")}
    with pytest.raises(ValueError, match=r"^a does not run on images \(2, 1, 4, 4\): .*$") as caught:
        measure_latency(models, yardstick="yard", threads=(1,), batch_sizes=(1, 2))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"do not fit into memory$"):
        measure_latency(models, yardstick="yard", threads=(1,), batch_sizes=(10**12,))


def test_a_missing_and_a_broken_file_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    for name in ("missing.onnx", "broken.onnx"):
        with pytest.raises(ValueError, match=f"{name} cannot be loaded") as caught:
            open_session(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_the_machine_is_named() -> None:
    hardware = machine.hardware()
    assert set(hardware) == {"cpu", "cores", "architecture", "memory_gib", "os"}
    assert hardware["cpu"]
    assert hardware["cores"] >= 1
    assert hardware["memory_gib"] > 0
    assert set(runtime.versions()) == {"python", "numpy", "onnxruntime"}


def test_measuring_does_not_import_torch(checkout: Path) -> None:
    code = "import sys, condensenet.deploy.latency; from condensenet.deploy.runtime import versions; versions(); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=checkout, check=False).returncode == 0


def test_the_runtime_reports_to_nobody(tmp_path: Path, checkout: Path) -> None:
    """With its telemetry on, it leaves an identifier of the machine and a queue of reports at home."""
    home = tmp_path / "home"
    home.mkdir()
    write_model(tmp_path / "model.onnx")
    code = "import sys; from condensenet.deploy.runtime import open_session; open_session(sys.argv[1])"
    quiet = ("CI", "ORT_", "XDG_")  # in a CI it would be off by itself
    environment = {name: value for name, value in os.environ.items() if not name.startswith(quiet)}
    environment |= {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(checkout)}
    subprocess.run([sys.executable, "-c", code, tmp_path / "model.onnx"], env=environment, check=True)
    assert list(home.rglob("*")) == []
