"""The step as a CUDA graph sees it, on a CPU: static tensors, and between replays nothing changes but their values."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from training_example import AUGMENT, MODEL, TRAIN, bits, new_model, without_time, write_stripes

from condensenet.config import TrainConfig
from condensenet.training import Trainer, fit, loop
from condensenet.training.cuda_graph import WARM_UP_CALLS, CudaGraphRunner, batches_counted_together

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_stripes(tmp_path_factory.mktemp("data") / "data")


class CpuGraphRunner(CudaGraphRunner):
    """Stands in for a GPU: a replay reads the same static arguments and writes into the same result."""

    captured_calls: list[int]

    def __init__(self, *, enabled: bool) -> None:
        super().__init__(enabled=True)
        self.captured_calls = []

    def _warm_up(self, function):
        return function(*self.static_arguments)

    def _capture(self, function):
        self.captured_calls.append(self.calls)
        self.result = torch.full_like(self.result, float("nan"))
        addresses = [static.data_ptr() for static in self.static_arguments]

        def replay() -> None:
            assert [static.data_ptr() for static in self.static_arguments] == addresses
            self.result.copy_(function(*self.static_arguments))

        return SimpleNamespace(replay=replay)


def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_the_fourth_call_is_captured_and_every_call_uses_its_own_arguments():
    runner = CpuGraphRunner(enabled=True)
    results = [runner(twice, torch.tensor([float(call), 1.0])).tolist() for call in range(6)]
    assert results == [[2 * call, 2] for call in range(6)]
    assert runner.captured_calls == [WARM_UP_CALLS] == [3]


def test_arguments_of_another_shape_reset_the_runner():
    runner = CpuGraphRunner(enabled=True)
    for _ in range(5):
        runner(twice, torch.ones(2))
    assert runner(twice, torch.ones(1, 2)).tolist() == [[2, 2]]
    assert runner.graph is None
    for _ in range(3):
        runner(twice, torch.ones(1, 2))
    assert runner.captured_calls == [3, 3]


def test_without_a_gpu_nothing_is_captured():
    runner = CudaGraphRunner(enabled=False)
    for call in range(5):
        assert runner(twice, torch.tensor([float(call)])).item() == 2 * call
    assert runner.graph is None


@pytest.mark.parametrize("runner_class", [CudaGraphRunner, CpuGraphRunner])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_by_replays_gives_the_same_bits(runner_class, dropout, data, monkeypatch):
    """The model must be in the same condensing stage at every replay as at the capture."""
    config = replace(TRAIN, epochs=8)
    model = new_model(replace(MODEL, dropout=dropout))
    history = without_time(list(fit(model, data, AUGMENT, config)))
    monkeypatch.setattr(loop, "CudaGraphRunner", runner_class)
    trainers: list[Trainer] = []
    states = set()
    compute_gradients = Trainer.compute_gradients

    def watched(self, *batch):
        if self not in trainers:
            trainers.append(self)
        if getattr(self.graph_runner, "graph", None) is not None:
            states.add((len(self.graph_runner.captured_calls), self.model.condensing_stage, self.model.training))
        return compute_gradients(self, *batch)

    monkeypatch.setattr(Trainer, "compute_gradients", watched)
    replayed = new_model(replace(MODEL, dropout=dropout))
    assert without_time(list(fit(replayed, data, AUGMENT, replace(config, cuda_graph=True)))) == history
    assert bits(replayed) == bits(model)
    if runner_class is CpuGraphRunner:  # drops before steps 7, 14 and 20 of 40: one capture per condensing stage
        assert sorted(states) == [(1, 0, True), (2, 1, True), (3, 2, True), (4, 3, True)]
        assert trainers[0].graph_runner.captured_calls == [WARM_UP_CALLS] * 4


def test_batches_are_counted_once_all_together():
    model, other = new_model(), new_model()
    other.load_state_dict(model.state_dict())
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    with batches_counted_together(model.modules()):
        inside = model(images)
    torch.manual_seed(2)
    assert torch.equal(inside, other(images))
    assert bits(model) == bits(other)
    assert {int(value) for name, value in model.state_dict().items() if name.endswith("tracked")} == {1}


def test_batches_of_a_pass_that_failed_are_not_counted():
    model = new_model()
    with pytest.raises(RuntimeError), batches_counted_together(model.modules()):
        model(torch.zeros(4, 5, 8, 8))
    assert {int(value) for name, value in model.state_dict().items() if name.endswith("tracked")} == {0}


def test_a_graph_in_a_graph_is_refused():
    with pytest.raises(ValueError, match="cuda_graph=true is not allowed with compile='reduce-overhead'"):
        TrainConfig(cuda_graph=True, compile="reduce-overhead")
    assert TrainConfig(cuda_graph=True, compile="default").cuda_graph
