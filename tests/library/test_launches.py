"""The step as a CUDA graph sees it, on a CPU: static places, and between replays nothing changes but tensors."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from training_example import AUGMENT, MODEL, TRAIN, bits, new_model, without_time, write_stripes

from condensenet.config import TrainConfig
from condensenet.training import Trainer, fit, loop
from condensenet.training.cuda_graph import WARM_UP, Replay, counted_together

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_stripes(tmp_path_factory.mktemp("data") / "data")


class Recording(Replay):
    """Stands in for a GPU: what was recorded runs again in the same places, and into the same result."""

    recorded: list[int]

    def __init__(self, *, records: bool) -> None:
        super().__init__(records=True)
        self.recorded = []

    def _aside(self, function):
        return function(*self.arguments)

    def _record(self, function):
        self.recorded.append(self.calls)
        self.result = torch.full_like(self.result, float("nan"))
        places = [own.data_ptr() for own in self.arguments]

        def replay() -> None:
            assert [own.data_ptr() for own in self.arguments] == places
            self.result.copy_(function(*self.arguments))

        return SimpleNamespace(replay=replay)


def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_the_fourth_call_is_recorded_and_each_works_on_its_own_arguments():
    replay = Recording(records=True)
    found = [replay(twice, torch.tensor([float(call), 1.0])).tolist() for call in range(6)]
    assert found == [[2 * call, 2] for call in range(6)]
    assert replay.recorded == [WARM_UP] == [3]


def test_arguments_of_another_shape_begin_anew():
    replay = Recording(records=True)
    for _ in range(5):
        replay(twice, torch.ones(2))
    assert replay(twice, torch.ones(1, 2)).tolist() == [[2, 2]]
    assert replay.graph is None
    for _ in range(3):
        replay(twice, torch.ones(1, 2))
    assert replay.recorded == [3, 3]


def test_without_a_gpu_nothing_is_recorded():
    replay = Replay(records=False)
    for call in range(5):
        assert replay(twice, torch.tensor([float(call)])).item() == 2 * call
    assert replay.graph is None


@pytest.mark.parametrize("kind", [Replay, Recording])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_by_replays_gives_the_same_bits(kind, dropout, data, monkeypatch):
    """At every replay the model must ask for what it asked for when the step was recorded."""
    config = replace(TRAIN, epochs=8)
    model = new_model(replace(MODEL, dropout=dropout))
    history = without_time(list(fit(model, data, AUGMENT, config)))
    monkeypatch.setattr(loop, "Replay", kind)
    trainers: list[Trainer] = []
    states = set()
    gradients = Trainer._gradients

    def watched(self, *batch):
        if self not in trainers:
            trainers.append(self)
        if getattr(self.replay, "graph", None) is not None:
            states.add((len(self.replay.recorded), self.model.condensing_stage, self.model.training))
        return gradients(self, *batch)

    monkeypatch.setattr(Trainer, "_gradients", watched)
    replayed = new_model(replace(MODEL, dropout=dropout))
    assert without_time(list(fit(replayed, data, AUGMENT, replace(config, cuda_graph=True)))) == history
    assert bits(replayed) == bits(model)
    if kind is Recording:  # drops before steps 7, 14 and 20 of 40: one recording a condensing stage
        assert sorted(states) == [(1, 0, True), (2, 1, True), (3, 2, True), (4, 3, True)]
        assert trainers[0].replay.recorded == [WARM_UP] * 4


def test_batches_are_counted_once_all_together():
    model, other = new_model(), new_model()
    other.load_state_dict(model.state_dict())
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    with counted_together(model.modules()):
        inside = model(images)
    torch.manual_seed(2)
    assert torch.equal(inside, other(images))
    assert bits(model) == bits(other)
    assert {int(value) for name, value in model.state_dict().items() if name.endswith("tracked")} == {1}


def test_batches_of_a_pass_that_failed_are_not_counted():
    model = new_model()
    with pytest.raises(RuntimeError), counted_together(model.modules()):
        model(torch.zeros(4, 5, 8, 8))
    assert {int(value) for name, value in model.state_dict().items() if name.endswith("tracked")} == {0}


def test_a_graph_in_a_graph_is_refused():
    with pytest.raises(ValueError, match="cuda_graph=true is not allowed with compile='reduce-overhead'"):
        TrainConfig(cuda_graph=True, compile="reduce-overhead")
    assert TrainConfig(cuda_graph=True, compile="default").cuda_graph
