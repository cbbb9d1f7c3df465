"""The table of runtimes: rows worked out by hand, what does not install or compute the same, and a real worker."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import markdown_tables
import numpy as np
import pytest
import torch

from benchmarks import runtime_environments, runtime_worker, runtimes
from benchmarks.pages import runtime_tables
from benchmarks.runtime_environments import Unavailable, Worker, environment, worker_environment
from benchmarks.runtimes import Started
from condensenet import ModelConfig, presets
from condensenet.deploy.latency.mobilenet import write_mobilenet_v1
from condensenet.deploy.runtime import open_session
from tasks.tables.network_files import File

pytest.importorskip("onnxruntime")
MOBILENET = File(model="mobilenet_v1", form="plain", path=Path("m.onnx"), macs=10)
NETWORK = File(model="condensenet-74-g8", form="plain", path=Path("c.onnx"), macs=5)
AUTOTUNED = File(model="condensenet-74-g8", form="autotuned", path=Path("a.onnx"), macs=5)


class TestRows:
    def started(self, *paths: Path, note: str = "") -> Started:
        return Started(None, "1.0", dict.fromkeys(paths, 1e-7), {AUTOTUNED.path: note} if note else {})

    def test_both_ratios_by_hand(self):
        """ONNX Runtime's MobileNetV1 takes 2 and 4 ms, the other runtime's 4 and 8, its CondenseNet 6 and 24."""
        started = {
            "onnxruntime": self.started(MOBILENET.path),
            "other": self.started(MOBILENET.path, NETWORK.path, note="cannot read opset 24"),
        }
        times = {
            "onnxruntime": {MOBILENET.path: np.array([[2.0, 9.0], [4.0, 9.0]])},
            "other": {
                MOBILENET.path: np.array([[4.0, 4.0], [8.0, 8.0]]),
                NETWORK.path: np.array([[4.0, 6.0], [8.0, 24.0]]),
            },
        }
        own, other, network, left_out = runtimes.rows_of(started, [MOBILENET, NETWORK, AUTOTUNED], times, 1)
        assert (own["median_ms"], own["ratio_to_mobilenet_v1"], own["ratio_to_onnxruntime"]) == (3, 1, 1)
        assert (other["median_ms"], other["ratio_to_mobilenet_v1"], other["ratio_to_onnxruntime"]) == (6, 1, 2)
        assert (network["median_ms"], network["p10_ms"]) == pytest.approx((15, 7.8))
        assert network["ratio_to_mobilenet_v1"] == 2.25  # of 1.5 and 3
        assert network["ratio_to_onnxruntime"] == 4.5  # of 3 and 6
        assert (left_out["form"], left_out["note"]) == ("autotuned", "cannot read opset 24")
        assert "median_ms" not in left_out

    def test_another_result_is_not_timed(self):
        assert runtimes.why_not({"difference": 1e-6}) is None
        assert runtimes.why_not({"difference": 0.5}) == "computes something else: off by 0.5 of the largest logit"
        assert runtimes.why_not({"difference": float("nan")}) is not None
        assert runtimes.why_not({"error": "no such operator"}) == "no such operator"

    def test_the_page_has_times_and_reasons(self):
        timed = {
            "runtime": "mnn",
            "version": "3.6",
            "model": "condensenet-74-g8",
            "form": "plain",
            "threads": 1,
            "median_ms": 46.0,
            "p10_ms": 45.0,
            "p90_ms": 48.0,
            "difference": 1e-6,
            "ratio_to_mobilenet_v1": 2.7,
            "ratio_p10": 2.6,
            "ratio_p90": 2.8,
            "ratio_to_onnxruntime": 7.0,
            "ratio_to_onnxruntime_p10": 6.9,
            "ratio_to_onnxruntime_p90": 7.2,
        }
        facts = {"device": "a CPU", "instruction_set": "AVX2", "rounds": 50, "clock": "cpu"}
        rows = [{**timed, **facts}, {"runtime": "ncnn", "note": "does not install: no wheel", **facts}]
        text = runtime_tables.runtimes({"runtimes": rows})
        first, second = markdown_tables.rows(text)
        assert first["Median, ms (p10 to p90)"] == "46.0 (45.0 to 48.0)"
        assert first["Ratio to MobileNetV1 there"] == "2.70 (2.60 to 2.80)"
        assert second["Median, ms (p10 to p90)"] == "does not install: no wheel"
        assert "a CPU; AVX2; 50 rounds, processor time" in text


class TestEnvironments:
    @pytest.mark.slow
    def test_what_cannot_be_installed_is_a_row(self, tmp_path, monkeypatch):
        monkeypatch.setitem(runtime_environments.PACKAGES, "mnn", (("--no-index", "condensenet-no-such-package"),))
        options = runtimes.Namespace(folder=tmp_path, runtimes=["mnn"], threads=1)
        started, notes = runtimes.start_runtimes(options, [])
        assert started == {}
        assert notes["mnn"].startswith("does not install: ")
        assert "\n" not in notes["mnn"]
        assert not (tmp_path / "environments" / "mnn" / runtime_environments.DONE).exists()

    def test_an_installed_one_is_not_made_again(self, tmp_path):
        packages = (("--version",),)
        (tmp_path / runtime_environments.DONE).write_text(json.dumps(packages))
        assert environment(tmp_path, packages) == tmp_path / "bin" / "python"
        assert list(tmp_path.iterdir()) == [tmp_path / runtime_environments.DONE]

    def test_a_worker_finds_its_own_pip_first_and_that_installs_nothing(self, tmp_path):
        python = tmp_path / "bin" / "python"
        variables = worker_environment({"PATH": "/usr/bin", "PYTHONPATH": "here"}, python, tmp_path, 2)
        assert variables["PATH"] == f"{tmp_path / 'bin'}{os.pathsep}/usr/bin"
        assert variables["PIP_NO_INDEX"] == "1"
        assert "PYTHONPATH" not in variables
        assert variables["OMP_NUM_THREADS"] == "2"

    def test_an_installers_reason_is_its_telling_line(self):
        printed = "  × No solution found:\n  ╰─▶ Because there are no versions of x, it fails.\n\n"
        assert runtime_environments.reason(printed) == "Because there are no versions of x, it fails."


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker("onnxruntime", Path(sys.executable), tmp_path / "worker", 1)
    yield worker
    worker.close()


@pytest.mark.slow
def test_a_real_worker_loads_compares_and_times(tmp_path, worker):
    path = write_mobilenet_v1(tmp_path / "m.onnx", (3, 32, 32), 5)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    logits = open_session(path, 1).run(None, {"image": image})[0]
    for name, array in (("image", image), ("same", logits), ("twice", 2 * logits)):
        np.save(tmp_path / f"{name}.npy", array)
    request = {"load": str(path), "image": str(tmp_path / "image.npy")}
    assert worker.ask(**request, expected=str(tmp_path / "same.npy"))["difference"] == 0
    assert worker.ask(**request, expected=str(tmp_path / "twice.npy"))["difference"] == pytest.approx(0.5)
    assert all(ms > 0 for ms in worker.ask(time=[str(path)] * 2, clock="wall")["ms"])
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    answer = worker.ask(**{**request, "load": str(tmp_path / "junk.onnx")}, expected=str(tmp_path / "same.npy"))
    assert "cannot be loaded by ONNX Runtime" in answer["error"]
    worker.process.kill()
    with pytest.raises(Unavailable, match="its process ended with status -9"):
        worker.ask(time=[str(path)], clock="cpu")


@pytest.mark.slow
def test_every_form_of_a_tiny_network_computes_the_same_in_pytorch(tmp_path, monkeypatch):
    """``OnnxModule`` is what runtimes get that read PyTorch alone."""
    config = ModelConfig(block_depths=(1, 1), growth_rates=(8, 8), groups_1x1=4, condensation_factor=4, stem="imagenet")
    monkeypatch.setitem(presets, "condensenet-74-g4", config)
    monkeypatch.setattr(runtimes, "CONDENSENETS", ["condensenet-74-g4"])
    monkeypatch.setattr(runtimes, "SIZE", 32)
    forms = (runtimes.PLAIN, runtimes.LOWERED, runtimes.FOR_OTHERS, runtimes.FOR_NCNN)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    files = list(runtimes.write_files(tmp_path, forms))
    assert len(files) == 1 + len(forms)
    logits = {}
    for file in files:
        expected = open_session(file.path, 1).run(None, {"image": image})[0]
        np.testing.assert_allclose(logits.setdefault(file.model, expected), expected, atol=1e-5 * abs(expected).max())
        with torch.inference_mode():
            actual = runtime_worker.onnx_module(file.path)(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-5 * abs(expected).max())
    assert runtimes.in_rounds({}, files, 3, "wall") == {}


@pytest.mark.parametrize("given", [["--threads", "0"], ["--rounds", "0"]])
def test_what_cannot_be_is_refused(monkeypatch, given):
    monkeypatch.setattr(sys, "argv", ["runtimes.py", *given])
    with pytest.raises(ValueError, match=f"{' '.join(given)} is not allowed: at least 1"):
        runtimes.arguments()
