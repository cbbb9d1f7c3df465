"""Autotuning: it measures, caches its times, survives being killed, and its plan can be used again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import condensed

from condensenet import CondenseNet, ModelConfig, convert
from condensenet.deploy.compare import compare_onnx
from condensenet.deploy.lowering import Plan, autotune, blocks, graph_builder, lower, measure_plan, portable_plan
from condensenet.deploy.lowering.autotune import candidates
from condensenet.deploy.lowering.reading import read_network
from condensenet.deploy.lowering.timing_cache import TimingCache
from condensenet.deploy.lowering.workloads import workloads

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CONFIG = ModelConfig(
    block_depths=(2, 2), growth_rates=(4, 8), groups_1x1=2, groups_3x3=2, condensation_factor=2, num_classes=3
)
WORKLOADS = 6  # four layers, two blocks


def network() -> CondenseNet:
    return convert(condensed(CONFIG))


def test_a_measured_plan_is_exact_reusable_and_says_where_it_was_measured(tmp_path: Path) -> None:
    model, cache = network(), tmp_path / "times.json"
    plan = measure_plan(model, 16, cache=cache)
    assert plan.kind == "measured"
    assert plan.machine is not None
    assert plan.machine["threads"] == 1
    for name, workload in workloads(read_network(model)):
        assert plan.times_us[name].keys() == set(candidates(workload))
    path = lower(model, tmp_path / "a.onnx", 16, plan=plan)
    compare_onnx(model, path, [torch.randn(4, 3, 16, 16)])
    elsewhere = replace(plan, machine={**plan.machine, "cpu": "another"})
    elsewhere.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == elsewhere
    lower(model, tmp_path / "b.onnx", 16, plan=Plan.load(plan.save(tmp_path / "plan.json")))
    assert (tmp_path / "b.onnx").read_bytes() == path.read_bytes()
    compare_onnx(model, lower(model, tmp_path / "c.onnx", 16, plan=again), [torch.randn(4, 3, 16, 16)])


def test_the_cache_saves_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, cache = network(), tmp_path / "times.json"
    first = measure_plan(model, 16, cache=cache)
    timed: list[set[str]] = []
    original = autotune.time_in_turn

    def spy(models, *rest):  # type: ignore[no-untyped-def]
        timed.append(set(models))
        return original(models, *rest)

    monkeypatch.setattr(autotune, "time_in_turn", spy)
    second = measure_plan(model, 16, cache=cache)
    assert len(timed) == 1  # only the whole networks
    assert {name: second.times_us[name] for name in second.variants} == {
        name: first.times_us[name] for name in first.variants
    }


NAN = b'{"format": "condensenet lowering times 1", "times_us": {"a": {"b": NaN}}}'
HUGE = NAN.replace(b"NaN", b"1" + b"0" * 400)


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"[]", b"\xff", b'{"format": "other"}', b'{"times_us": {"a": 1}}', NAN, HUGE]
)
def test_a_damaged_cache_is_ignored_with_a_warning(tmp_path: Path, junk: bytes) -> None:
    cache = tmp_path / "times.json"
    cache.write_bytes(junk)
    with pytest.warns(UserWarning, match="is ignored, it is not a timing cache"):
        measure_plan(network(), 16, cache=cache)
    assert json.loads(cache.read_text())["times_us"]


def test_a_cache_that_cannot_be_kept_costs_no_plan(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache in (tmp_path, tmp_path / "file" / "times.json"):
        with (
            pytest.warns(UserWarning, match=r"\[Errno 2[01]\]"),  # it cannot be read
            pytest.warns(UserWarning, match=r"cannot be written, .*: (Is a directory|File exists)$"),
        ):
            plan = measure_plan(network(), 16, cache=cache)
        assert plan.variants.keys() == portable_plan(network(), 16).variants.keys()


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_lowering_autotune import network
from condensenet.deploy.lowering import autotune, measure_plan
original = autotune.time_in_turn
def slow(*rest):
    times_us = original(*rest)
    time.sleep(0.2)
    return times_us
autotune.time_in_turn = slow
measure_plan(network(), 16, cache=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_planner_goes_on_from_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "times.json"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(cache), str(Path(__file__).parent)])
    deadline = time.monotonic() + 60
    while not cache.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = json.loads(cache.read_text())["times_us"]
    assert 0 < len(kept) < WORKLOADS
    timed = []
    original = autotune.time_in_turn
    monkeypatch.setattr(autotune, "time_in_turn", lambda *rest: timed.append(1) or original(*rest))
    plan = measure_plan(network(), 16, cache=cache)
    assert len(timed) == WORKLOADS - len(kept) + 1
    times_us = json.loads(cache.read_text())["times_us"]
    assert {key: times_us[key] for key in kept} == kept
    assert plan.variants.keys() == portable_plan(network(), 16).variants.keys()


def test_what_the_runtime_cannot_load_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an older ONNX Runtime, which lacks TensorScatter."""
    monkeypatch.setattr(blocks, "SCATTER_OPSET", 99)
    monkeypatch.setitem(graph_builder.IR_VERSIONS, 99, 99)
    plan = measure_plan(network(), 16)
    assert plan.times_us["block 1"].keys() == {"joined", "blocked"}
    assert "in place" not in plan.variants.values()
    lower(network(), tmp_path / "model.onnx", 16, plan=plan)


def test_processes_that_share_a_cache_keep_each_others_times(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    one, other = TimingCache(path), TimingCache(path)  # both began before either wrote
    one.put({"site": 1}, {"a": 2.0})
    other.put({"site": 2}, {"b": 3.0})
    kept = TimingCache(path)
    assert (kept.get({"site": 1}), kept.get({"site": 2})) == ({"a": 2.0}, {"b": 3.0})


def test_a_number_of_threads_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^threads=-1 is not allowed: 0 \(all usable cores\) or more$"):
        measure_plan(network(), 16, threads=-1)


def test_a_newer_operator_raises_the_opset(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model, plan = network(), portable_plan(network(), 16)
    for style, opset in (("joined", 18), ("in place", 24)):
        chosen = replace(plan, variants={**plan.variants, "block 1": style})
        path = lower(model, tmp_path / "model.onnx", 16, plan=chosen)
        assert [entry.version for entry in onnx.load(path).opset_import] == [opset]
