"""The training loop: its schedule by hand, exact resume, condensing, and what stops it."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from training_example import AUGMENT, MODEL, TRAIN, bits, new_model, train_until, without_time, write_stripes

from condensenet import CondenseNet, convert
from condensenet.config import TrainConfig
from condensenet.data import PreparedData
from condensenet.training import (
    TrainingFailed,
    TrainingPaused,
    checkpoint_files,
    cosine_learning_rate,
    fingerprint,
    fit,
    kept_pct,
    loop,
)
from condensenet.training.evaluation import evaluate
from condensenet.training.optimizer import NesterovSGD

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    return write_stripes(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def uninterrupted(data):
    model = new_model()
    history = list(fit(model, data, AUGMENT, TRAIN))
    return bits(model), without_time(history)


def test_learning_rate_is_a_half_cosine():
    assert cosine_learning_rate(0.1, 0) == 0.1
    assert cosine_learning_rate(0.1, 0.5) == pytest.approx(0.05)
    assert cosine_learning_rate(0.1, 1 / 3) == pytest.approx(0.075)
    assert cosine_learning_rate(0.1, 1) == pytest.approx(0, abs=1e-12)


def test_warmup_rises_linearly_before_the_half_cosine():
    assert cosine_learning_rate(0.1, 0, warmup=0.2) == 0
    assert cosine_learning_rate(0.1, 0.15, warmup=0.2) == pytest.approx(0.075)
    assert cosine_learning_rate(0.1, 0.2, warmup=0.2) == 0.1
    assert cosine_learning_rate(0.1, 0.6, warmup=0.2) == pytest.approx(0.05)
    assert cosine_learning_rate(0.1, 1, warmup=0.2) == pytest.approx(0, abs=1e-12)


def test_warmup_is_in_epochs(data):
    history = list(fit(new_model(), data, AUGMENT, replace(TRAIN, epochs=4, warmup_epochs=2)))
    # 20 steps, the last of each epoch being 4, 9, 14 and 19: 4/10 and 9/10 of the rise, 4/10 and 9/10 of the fall
    falling = [0.05 * (1 + math.cos(math.pi * share)) for share in (0.4, 0.9)]
    assert [row.learning_rate for row in history] == pytest.approx([0.04, 0.09, *falling])


def test_one_shot_condensing_drops_all_at_once(data):
    config = replace(TRAIN, epochs=8, condensing="one-shot", condensing_share=0.75)
    history = list(fit(new_model(), data, AUGMENT, config))
    assert [row.condensing_stage for row in history] == [0, 0, 0, 0, 0, 0, 3, 3]


def test_random_condensing_depends_on_the_seed_alone(data):
    def masks(seed: int, model_seed: int) -> list[torch.Tensor]:
        torch.manual_seed(model_seed)
        model = new_model()
        history = list(fit(model, data, AUGMENT, replace(TRAIN, epochs=1, condensing="random", seed=seed)))
        assert [row.condensing_stage for row in history] == [3]
        return [layer.group_mask.clone() for layer in model.learned_layers()]

    first, same, other = masks(0, 0), masks(0, 1), masks(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_loss_falls_and_history_names_the_condensing_stages(data):
    model = new_model()
    history = list(fit(model, data, AUGMENT, replace(TRAIN, epochs=8)))
    assert [row.epoch for row in history] == list(range(1, 9))
    # 40 steps, three drops at progress 1/6, 2/6 and 3/6: before steps 7, 14 and 20
    assert [row.condensing_stage for row in history] == [0, 1, 2, 2, 3, 3, 3, 3]
    assert [row.kept_pct for row in history] == [100, 75, 50, 50, 25, 25, 25, 25]
    assert history[-1].train_loss < 0.7 * history[0].train_loss
    assert history[-1].learning_rate == pytest.approx(cosine_learning_rate(0.1, 39 / 40))
    assert model.is_condensed
    assert kept_pct(model) == 25


def test_drop_due_at_the_very_end_is_done(data):
    model = new_model()
    history = list(fit(model, data, AUGMENT, replace(TRAIN, epochs=1, condensing_share=1.0)))
    assert model.is_condensed
    assert history[-1].condensing_stage == 3


@pytest.mark.parametrize("step", [1, 3, 4, 5, 7, 10, 11, 12, 17, 19])
def test_resume_gives_the_same_bits(step, data, uninterrupted, tmp_path, monkeypatch):
    """Killed before the first checkpoint, inside epochs, at their ends, and at condensing boundaries (4, 7, 10)."""
    train_until(step, data, tmp_path, monkeypatch)
    model = new_model()
    history = list(fit(model, data, AUGMENT, TRAIN, checkpoints=tmp_path))
    weights, rows = uninterrupted
    assert bits(model) == weights
    assert without_time(history) == rows


def test_killed_at_every_third_step_gives_the_same_bits(data, uninterrupted, tmp_path, monkeypatch):
    for step in range(4, 20, 3):
        train_until(step, data, tmp_path, monkeypatch)
    model = new_model()
    list(fit(model, data, AUGMENT, TRAIN, checkpoints=tmp_path))
    assert bits(model) == uninterrupted[0]


def test_a_state_dict_takes_a_trainer_back_to_where_it_was(data):
    """From step 8 back to step 3, across the drops before steps 4 and 7, in the trainer itself and in another one."""

    def train_to(trainer: loop.Trainer, step: int) -> tuple[dict, list]:
        for images, labels in itertools.chain.from_iterable(trainer.batches() for _ in range(2)):
            if trainer.step == step:
                break
            trainer.condense()
            trainer.train_step(images, labels)
        return bits(trainer.model), [velocity.tolist() for velocity in trainer.optimizer.velocities]

    first, second = (loop.Trainer(new_model(), data, AUGMENT, TRAIN, None, torch.device("cpu")) for _ in range(2))
    train_to(first, 3)
    early = copy.deepcopy(first.state_dict())
    expected, totals = train_to(first, 8), first.epoch_totals.tolist()
    for trainer in (first, second):
        trainer.load_state_dict(early)
        assert trainer.model.condensing_stage == 0
        assert train_to(trainer, 8) == expected
        assert trainer.epoch_totals.tolist() == totals
        assert trainer.model.condensing_stage == 2


def test_closed_generator_resumes(data, uninterrupted, tmp_path):
    epochs = fit(new_model(), data, AUGMENT, TRAIN, checkpoints=tmp_path)
    next(epochs)
    epochs.close()
    model = new_model()
    history = list(fit(model, data, AUGMENT, TRAIN, checkpoints=tmp_path))
    assert bits(model) == uninterrupted[0]
    assert without_time(history) == uninterrupted[1]


def at_call(number: int):
    """A ``stop`` that says yes when it is asked for the ``number``-th time, and from then on."""
    calls = iter(range(1, 10**6))
    return lambda: next(calls) >= number


@pytest.mark.parametrize(
    ("call", "step"),
    # five steps and three batches of evaluation an epoch, a question after each
    [(1, 1), (3, 3), (5, 5), (6, 5), (8, 5), (9, 6), (12, 9), (29, 20), (30, 20), (32, 20)],
)
def test_told_to_stop_it_saves_the_last_step_and_goes_on_from_there(call, step, data, uninterrupted, tmp_path):
    with pytest.raises(TrainingPaused, match=rf"^paused after step {step} of 20$") as paused:
        list(fit(new_model(), data, AUGMENT, TRAIN, checkpoints=tmp_path, stop=at_call(call)))
    assert paused.value.step == step
    assert checkpoint_files.load_newest(tmp_path)["trainer"]["step"] == step
    model = new_model()
    history = list(fit(model, data, AUGMENT, TRAIN, checkpoints=tmp_path))
    assert bits(model) == uninterrupted[0]
    assert without_time(history) == uninterrupted[1]


def test_stopped_again_and_again_it_ends_with_the_same_bits(data, uninterrupted, tmp_path):
    paused, history = 0, None
    while history is None:
        model = new_model()
        try:
            history = list(fit(model, data, AUGMENT, TRAIN, checkpoints=tmp_path, stop=at_call(4)))
        except TrainingPaused:
            paused += 1
    assert paused > 5
    assert bits(model) == uninterrupted[0]
    assert without_time(history) == uninterrupted[1]


def test_finished_training_gives_its_history_again_and_trains_nothing(data, uninterrupted, tmp_path):
    first = list(fit(new_model(), data, AUGMENT, TRAIN, checkpoints=tmp_path))
    model = new_model()
    assert list(fit(model, data, AUGMENT, TRAIN, checkpoints=tmp_path)) == first
    assert bits(model) == uninterrupted[0]


def test_dropped_weights_stay_zero(data):
    model = new_model()
    list(fit(model, data, AUGMENT, TRAIN))
    for layer in model.learned_layers():
        dropped = layer.full_weight[~layer.mask]
        assert len(dropped) == 0.75 * layer.full_weight.numel()
        assert not dropped.any()


def test_group_lasso_is_off_after_the_last_condensing_stage(data, tmp_path):
    """Two trainings that differ in the lasso's weight from the last drop on are equal."""

    def trained(late_weight):
        config = replace(TRAIN, epochs=2)
        model = new_model()
        original = loop.group_lasso
        try:
            loop.group_lasso = lambda m: (late_weight if m.is_condensed else 1.0) * original(m)
            list(fit(model, data, AUGMENT, config))
        finally:
            loop.group_lasso = original
        return bits(model)

    assert trained(1.0) == trained(1e6)


def test_resume_under_other_parameters_is_refused_with_the_difference(data, tmp_path):
    next(fit(new_model(), data, AUGMENT, TRAIN, checkpoints=tmp_path))
    with pytest.raises(ValueError, match=r"train\.learning_rate was 0\.1, is 0\.2; train\.seed was 0, is 5$"):
        next(fit(new_model(), data, AUGMENT, replace(TRAIN, learning_rate=0.2, seed=5), checkpoints=tmp_path))
    other = replace(MODEL, condensation_factor=2)
    with pytest.raises(ValueError, match=r"model\.condensation_factor was 4, is 2$"):
        next(fit(new_model(other), data, AUGMENT, TRAIN, checkpoints=tmp_path))


def test_resume_under_other_code_is_refused_with_the_file(data, tmp_path, monkeypatch):
    next(fit(new_model(), data, AUGMENT, TRAIN, checkpoints=tmp_path))
    code = {**fingerprint.training_code(), "code.models/layers.py": "0123456789ab"}
    monkeypatch.setattr(fingerprint, "training_code", lambda: code)
    with pytest.raises(ValueError, match=r"code: code\.models/layers\.py was '[0-9a-f]{12}', is '0123456789ab'$"):
        next(fit(new_model(), data, AUGMENT, TRAIN, checkpoints=tmp_path))


@pytest.mark.slow
def test_compiled_code_serves_all_condensing_stages(data, monkeypatch):
    """Compiled by a backend that only counts: each graph once, though connections are dropped three times."""
    counter = CompileCounter()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode: compile_(model, backend=counter, fullgraph=True))
    graphs = []

    def train(config: TrainConfig) -> CondenseNet:
        model = new_model()
        for _ in fit(model, data, AUGMENT, config):
            graphs.append(counter.frame_count)
        return model

    compiled = train(replace(TRAIN, compile="default"))
    assert compiled.is_condensed
    assert set(graphs) == {1}
    for found, expected in zip(compiled.parameters(), train(TRAIN).parameters(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_code_that_counts_is_all_that_trains_and_nothing_that_deploys(checkout):
    root = checkout / "condensenet"
    sources = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in (".py", ".c", ".h")}
    counted = {name.removeprefix("code.") for name in fingerprint.training_code()}
    beside = {"__init__.py", "files.py", "file_locks.py", "machine.py", "temporary.py", "text.py"}
    assert sources - counted == {name for name in sources if name.startswith(("deploy/", "interop/"))} | beside
    assert counted >= {
        "training/loop.py",
        "models/condensing.py",
        "models/kernels/rows.h",
        "simd/vectors.h",
        "data/augment.py",
        "config/model.py",
    }


def test_how_often_checkpoints_are_written_changes_nothing(data, uninterrupted, tmp_path, monkeypatch):
    train_until(9, data, tmp_path, monkeypatch)
    model = new_model()
    list(fit(model, data, AUGMENT, replace(TRAIN, checkpoint_every_steps=1000), checkpoints=tmp_path))
    assert bits(model) == uninterrupted[0]


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(data, tmp_path, monkeypatch):
    original = loop.Trainer.train_step

    def train_step(self, images, labels):
        original(self, images * float("nan") if self.step == 7 else images, labels)

    monkeypatch.setattr(loop.Trainer, "train_step", train_step)
    with pytest.raises(TrainingFailed, match=r"not finite at step 7 \(epoch 2\)"):
        list(fit(new_model(), data, AUGMENT, TRAIN, checkpoints=tmp_path))
    assert [path.name.split("-")[1] for path in sorted(tmp_path.glob("*.pt"))] == ["00000005", "00000006"]


@pytest.mark.parametrize("what", ["parameters", "statistics", "velocities"])
def test_no_checkpoint_holds_what_is_not_finite(what, data, tmp_path):
    trainer = loop.Trainer(new_model(), data, AUGMENT, TRAIN, tmp_path, torch.device("cpu"))
    batch = next(trainer.batches())
    trainer.train_step(*batch)
    tensors = {"parameters": list(trainer.model.parameters()), "statistics": trainer.running_statistics}
    with torch.no_grad():
        tensors.get(what, trainer.optimizer.velocities)[-1].view(-1)[-1] = float("inf")
    with pytest.raises(TrainingFailed, match=r"not finite at step 1 \(epoch 1\)"):
        trainer.save()
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit_the_model_are_refused(data):
    with pytest.raises(ValueError, match="num_classes=4 is not allowed"):
        next(fit(CondenseNet(replace(MODEL, num_classes=4)), data, AUGMENT, TRAIN))


def test_evaluate_by_hand(data):
    class Always(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, 2.0, 0.0]]).expand(len(images), 3)

    loss, error_pct = evaluate(Always(), data.split("test"), batch_size=4)
    assert error_pct == pytest.approx(100 * 6 / 9)
    normaliser = np.log(np.exp(2) + 2)
    assert loss == pytest.approx((3 * (normaliser - 2) + 6 * normaliser) / 9)


def test_bf16_trains(data):
    history = list(fit(new_model(), data, AUGMENT, replace(TRAIN, epochs=6, precision="bf16")))
    assert history[-1].train_loss < history[0].train_loss


def test_optimizer_by_hand():
    """Sutskever's Nesterov as torch has it: v = m * v + g, then p -= lr * (g + m * v), with decay in g."""
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = NesterovSGD([parameter], momentum=0.5, weight_decay=0.1)
    parameter.grad = torch.tensor([0.9])
    optimizer.step(0.1)  # g = 1, v = 1: 1 - 0.1 * 1.5
    assert parameter.item() == pytest.approx(0.85)
    parameter.grad = torch.tensor([0.915])
    optimizer.step(0.2)  # g = 0.915 + 0.085 = 1, v = 1.5: 0.85 - 0.2 * 1.75
    assert parameter.item() == pytest.approx(0.5)


def test_optimizer_without_momentum_steps_down_the_gradient():
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    parameter.grad = torch.tensor([0.5, 0.5])
    NesterovSGD([parameter], momentum=0.0, weight_decay=0.1).step(0.1)
    # 1 - 0.1 * (0.5 + 0.1 * 1) and -2 - 0.1 * (0.5 - 0.1 * 2)
    assert parameter.tolist() == pytest.approx([0.94, -2.03])


def test_optimizer_forgets_the_momentum_of_what_is_dropped():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = NesterovSGD([parameter], momentum=0.9, weight_decay=0.1)
    parameter.grad = torch.tensor([1.0, 1.0])
    optimizer.step(0.1)
    optimizer.apply_mask(parameter, torch.tensor([True, False]))
    parameter.grad = torch.tensor([1.0, 0.0])
    optimizer.step(0.1)
    assert parameter[1] == 0
    assert parameter[0] < 0.8


def test_the_model_takes_the_preprocessing_of_its_data(data):
    model = new_model()
    model.preprocessing = replace(data.manifest.preprocessing, classes=("old", "older", "oldest"))
    next(fit(model, data, AUGMENT, TRAIN))
    assert model.preprocessing == data.manifest.preprocessing


def test_a_grouped_form_is_refused_before_anything_is_done(data, tmp_path):
    model = new_model()
    model.condense_to(model.num_condensing_stages)
    with pytest.raises(ValueError, match="a grouped form cannot be trained"):
        next(fit(convert(model), data, AUGMENT, TRAIN, checkpoints=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_frozen_parameters_stay_but_for_what_condensing_drops(data, tmp_path):
    model = new_model()
    frozen = [model.stem, next(iter(model.learned_layers()))]
    for module in frozen:
        module.requires_grad_(False)
    before = [copy.deepcopy(module.state_dict()) for module in frozen]
    history = list(fit(model, data, AUGMENT, TRAIN, checkpoints=str(tmp_path)))
    again = new_model()
    for module in (again.stem, next(iter(again.learned_layers()))):
        module.requires_grad_(False)
    assert without_time(list(fit(again, data, AUGMENT, TRAIN, checkpoints=str(tmp_path)))) == without_time(history)
    assert bits(again) == bits(model)
    assert model.is_condensed
    assert all(torch.equal(value, before[0][name]) for name, value in frozen[0].named_parameters())
    assert torch.equal(frozen[1].full_weight, before[1]["conv.weight"] * frozen[1].mask)
