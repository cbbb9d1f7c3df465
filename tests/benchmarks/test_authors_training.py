"""The authors' training computes what ours computes; only the way there differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_example import write_stripes

from benchmarks import authors_training
from benchmarks.side_by_side import prepared
from condensenet import AugmentConfig, CondenseNet, ModelConfig, TrainConfig
from condensenet.interop import authors_state_dict, load_authors_checkpoint
from condensenet.models.condensenet import group_lasso
from condensenet.training import Trainer

CONFIG = ModelConfig(block_depths=(2, 2), growth_rates=(8, 16), groups_1x1=4, groups_3x3=4, condensation_factor=4)
LASSO = 1e-2


def our_model(condensing_stage: int) -> CondenseNet:
    torch.manual_seed(0)
    model = CondenseNet(CONFIG)
    model.condense_to(condensing_stage)
    return model


def as_authors_net(model: CondenseNet) -> authors_training.AuthorsNet:
    net = authors_training.AuthorsNet(model.config, image_size=8)
    net.load_state_dict(authors_state_dict(model))
    net.clock.progress = model.condensing_stage / (2 * model.num_condensing_stages)
    return net


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 8, 8, generator=generator), torch.randint(10, (6,), generator=generator)


@pytest.mark.parametrize("stage", range(4))
def test_same_logits_and_gradients_at_every_condensing_stage(stage):
    model, (images, labels) = our_model(stage), batch()
    net = as_authors_net(model)
    logits, theirs = model(images), net(images)
    torch.testing.assert_close(theirs, logits, rtol=1e-5, atol=1e-5)
    loss, their_loss = F.cross_entropy(logits, labels), F.cross_entropy(theirs, labels)
    if not model.is_condensed:
        loss = loss + LASSO * group_lasso(model)
    loss.backward()
    (their_loss + LASSO * sum(layer.lasso() for layer in net.learned())).backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    by_shape = zip(model.parameters(), net.parameters(), strict=True)  # one order: that of the forward pass
    for ours, other in by_shape:
        torch.testing.assert_close(other.grad, ours.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lasso", [0.0, 1e-3])
def test_the_same_batches_train_the_same_weights_over_a_whole_schedule(lasso):
    """Our Trainer and the authors', from the same weights, on the batches that ours draws, with every pruning step."""
    recipe = TrainConfig(epochs=3, batch_size=8, learning_rate=0.05, group_lasso_weight=lasso)
    cpu = torch.device("cpu")
    with prepared(None, 64, 8, 10) as data:
        trainer = Trainer(our_model(0), data, AugmentConfig(crop="pad", pad=1, flip=True), recipe, None, cpu)
        net = as_authors_net(trainer.model)
        theirs = authors_training.AuthorsTrainer(net, recipe, cpu)
        stages = set()
        while trainer.progress < 1:
            for images, labels in trainer.batches():
                trainer.condense()
                stages.add(trainer.model.condensing_stage)
                theirs.step(images.contiguous(), labels, trainer.progress)
                trainer.train_step(images, labels)
    assert stages == {0, 1, 2, 3}
    trained = load_authors_checkpoint(net.state_dict(), CONFIG)
    for other, layer in zip(trained.learned_layers(), trainer.model.learned_layers(), strict=True):
        assert torch.equal(other.group_mask, layer.group_mask)
        torch.testing.assert_close(other.weight_in_use(), layer.weight_in_use(), rtol=1e-3, atol=1e-4)
    for (name, other), ours in zip(trained.state_dict().items(), trainer.model.state_dict().values(), strict=True):
        if "running" in name:
            torch.testing.assert_close(other, ours, rtol=1e-3, atol=1e-4)


def test_drops_are_written_by_hand():
    config = replace(CONFIG, groups_1x1=2, condensation_factor=2)
    layer = authors_training.LearnedConv(4, 2, config, authors_training.Clock())
    layer.conv.weight.data = torch.tensor([[1.0, -4, 3, 2], [5, 1, 1.5, -6]])[:, :, None, None]
    layer.clock.progress = 0.5
    layer(torch.zeros(2, 4, 1, 1))
    assert layer._mask[:, :, 0, 0].tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert layer._count.item() == 2
    assert layer._stage.item() == 1


def test_precision_of_four_images():
    logits = torch.tensor([[9.0, 1, 2, 3, 4, 5], [1, 9, 2, 3, 4, 5], [9, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]])
    top1, top5 = authors_training.precision(logits, torch.tensor([0, 2, 5, 0]))
    assert (top1.item(), top5.item()) == (25, 75)


def test_loader_gives_normalised_images_and_the_error_counts_them(tmp_path):
    data = write_stripes(tmp_path / "data")
    split = data.split("test")
    loader = authors_training.evaluation_loader(split, 4, workers=0)
    images = torch.cat([images for images, _ in loader])
    pixels = torch.from_numpy(split.raw(np.arange(len(split)))) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.manifest.mean, data.manifest.std))
    torch.testing.assert_close(images, ((pixels - mean) / std).float())
    crops = authors_training.train_loader(split, AugmentConfig(crop="pad", pad=1, flip=True), 9, workers=0)
    torch.manual_seed(0)
    changed, labels = next(iter(crops))
    assert changed.shape == images.shape
    assert sorted(labels.tolist()) == sorted(split.labels.tolist())
    config = replace(CONFIG, in_channels=1, num_classes=3)
    net = authors_training.AuthorsNet(config, image_size=8)
    net.classifier.weight.data.zero_()
    net.classifier.bias.data = torch.tensor([0.0, 1, 0])
    trainer = authors_training.AuthorsTrainer(net, TrainConfig(), torch.device("cpu"))
    assert trainer.error_pct(loader) == pytest.approx(100 * (split.labels != 1).float().mean().item())


def test_settings_that_the_authors_lack_are_rejected():
    with pytest.raises(ValueError, match=r"reduction=0\.5"):
        authors_training.AuthorsNet(replace(CONFIG, reduction=0.5), 8)
    with pytest.raises(ValueError, match="precision=bf16"):
        authors_training.AuthorsTrainer(
            authors_training.AuthorsNet(CONFIG, 8), TrainConfig(precision="bf16"), torch.device("cpu")
        )
