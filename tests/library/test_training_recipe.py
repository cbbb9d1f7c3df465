"""What the modern recipe adds to training, each by hand or against its own definition, and resumed to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_example import AUGMENT, TRAIN, bits, new_model, train_until, without_time, write_stripes

from condensenet import CondenseNet
from condensenet.config import TrainConfig
from condensenet.data import PreparedData
from condensenet.training import fit, loop
from condensenet.training.averaging import WeightAverage
from condensenet.training.evaluation import evaluate
from condensenet.training.mixing import mix
from condensenet.training.optimizer import scaled_learning_rate

MODERN = replace(
    TRAIN, epochs=4, mixup=0.2, cutmix=1.0, ema_decay=0.9, gradient_accumulation=2, label_smoothing=0.1, warmup_epochs=1
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    return write_stripes(tmp_path_factory.mktemp("data") / "data")


def trainer(model: CondenseNet, data, config: TrainConfig) -> loop.Trainer:
    return loop.Trainer(model, data, AUGMENT, config, None, torch.device("cpu"))


def gradients(data, config: TrainConfig) -> list[torch.Tensor]:
    model = new_model()
    own = trainer(model, data, config)
    images, labels = next(iter(own.batches()))
    model.eval()  # batch norm depends on the parts otherwise
    own.compute_gradients(images, labels)
    return [gradient.clone() for gradient in own.optimizer.gradients]


def test_parts_of_a_batch_have_its_gradients_together(data):
    config = replace(TRAIN, group_lasso_weight=1e-3)
    whole, parts = gradients(data, config), gradients(data, replace(config, gradient_accumulation=4))
    assert any(gradient.abs().max() > 0 for gradient in whole)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_parts_must_be_equal(data):
    own = trainer(new_model(), data, replace(TRAIN, gradient_accumulation=2))
    images, labels = next(iter(own.batches()))
    with pytest.raises(ValueError, match=r"gradient_accumulation=2 .* a worker's 3 images"):
        own.compute_gradients(images[:3], labels[:3])


def test_the_average_by_hand():
    model = torch.nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.5)
    for step, value in ((1, 3.0), (20, 5.0)):
        model.weight.data.fill_(value)
        model.running_mean.fill_(value)
        model.num_batches_tracked.fill_(step)
        average.update(step)
    first = 2 / 11 * 1.0 + 9 / 11 * 3.0  # (1 + 1) / (10 + 1) is below one half
    assert average.state_dict()["weight"].item() == pytest.approx(0.5 * first + 0.5 * 5.0)
    assert average.state_dict()["running_mean"].item() == pytest.approx(0.5 * (9 / 11 * 3.0) + 0.5 * 5.0)
    assert average.state_dict()["num_batches_tracked"].item() == 20
    with average.in_use():
        assert model.weight.item() == average.state_dict()["weight"].item()
    assert model.weight.item() == 5.0


def test_the_average_is_evaluated_and_kept_and_has_no_dropped_connections(data):
    plain, averaged = new_model(), new_model()
    list(fit(plain, data, AUGMENT, replace(TRAIN, epochs=4)))
    history = list(fit(averaged, data, AUGMENT, replace(TRAIN, epochs=4, ema_decay=0.9)))
    assert averaged.is_condensed
    for one, other in zip(plain.learned_layers(), averaged.learned_layers(), strict=True):
        assert torch.equal(one.mask, other.mask)  # training itself is the same
        assert not torch.equal(one.full_weight, other.full_weight)
        assert (other.full_weight * (1 - other.mask.float())).abs().max() == 0
    loss, error = evaluate(averaged, data.evaluation_split, TRAIN.batch_size)
    assert (loss, error) == (history[-1].validation_loss, history[-1].validation_error_pct)


def test_a_drop_at_the_very_end_reaches_the_average(data):
    model = new_model()
    list(fit(model, data, AUGMENT, replace(TRAIN, epochs=1, ema_decay=0.9, condensing_share=1.0)))
    assert model.condensing_stage == 3
    for layer in model.learned_layers():
        assert layer.num_dropped == layer.in_channels - int(layer.group_mask.sum(dim=1)[0])
        assert (layer.full_weight * (1 - layer.mask.float())).abs().max() == 0


def test_mixing_by_torchvision_depends_on_the_step_and_the_rank_alone():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    config = TrainConfig(mixup=0.5)
    state = torch.get_rng_state()
    mixed, probabilities = mix(images, labels, config, 3, 7, 0)
    assert torch.equal(torch.get_rng_state(), state)
    again = mix(images, labels, config, 3, 7, 0)
    assert torch.equal(mixed, again[0])
    assert torch.equal(probabilities, again[1])
    for step, rank in ((8, 0), (7, 1)):
        assert not torch.equal(mixed, mix(images, labels, config, 3, step, rank)[0])
    share = probabilities[0, 0].item()  # of the first image, whose class no neighbour has
    assert 0 < share < 1
    torch.testing.assert_close(mixed[0], share * images[0] + (1 - share) * images[-1])
    assert probabilities.sum(dim=1).tolist() == pytest.approx([1.0] * 4)


def test_with_both_kinds_of_mixing_each_gets_its_batches():
    images, labels = torch.rand(2, 1, 16, 16), torch.tensor([0, 1])
    config = TrainConfig(mixup=1.0, cutmix=1.0)
    cut = 0
    for step in range(40):
        mixed, _ = mix(images, labels, config, 2, step, 0)
        cut += bool(((mixed[0] == images[0]) | (mixed[0] == images[1])).all())
    assert 8 < cut < 32


def test_the_learning_rate_follows_the_batch():
    config = TrainConfig(learning_rate=0.1, batch_size=1024)
    assert scaled_learning_rate(config) == 0.1
    assert scaled_learning_rate(replace(config, learning_rate_batch_size=256)) == pytest.approx(0.4)


def test_everything_together_is_resumed_to_the_bit(data, tmp_path: Path, monkeypatch):
    whole, resumed = new_model(), new_model()
    history = without_time(list(fit(whole, data, AUGMENT, MODERN)))
    for step in (3, 8, 16, 19):
        train_until(step, data, tmp_path, monkeypatch, MODERN)
    assert without_time(list(fit(resumed, data, AUGMENT, MODERN, checkpoints=tmp_path))) == history
    assert bits(resumed) == bits(whole)
    done = new_model()  # a training that had ended gives the average again
    list(fit(done, data, AUGMENT, MODERN, checkpoints=tmp_path))
    assert bits(done) == bits(whole)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"mixup": -0.1}, "mixup=-0.1"),
        ({"cutmix": float("nan")}, "cutmix=nan"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"gradient_accumulation": 3}, "gradient_accumulation=3 is not allowed: it must divide batch_size=64"),
        ({"gradient_accumulation": 0}, "gradient_accumulation=0"),
        ({"gradient_accumulation": 2, "compile": "reduce-overhead"}, "is not allowed with compile='reduce-overhead'"),
        ({"learning_rate_batch_size": -1}, "learning_rate_batch_size=-1"),
    ],
)
def test_values_that_are_not_allowed(changes, error):
    with pytest.raises(ValueError, match=error):
        TrainConfig(**changes)
