"""The network family: its shape, its condensing, and DenseNet-121 against torchvision's."""

from __future__ import annotations

import dataclasses
import re
from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import configs, random_network, share_of_examples
from torch import nn

from condensenet import CondenseNet, ModelConfig, group_lasso, presets
from condensenet.models.layers import LearnedGroupConv, LearnedLinear

SMALL = ModelConfig(block_depths=(2, 2), growth_rates=(8, 16), condensation_factor=4)


def test_features_grow_by_the_growth_rate_and_cross_blocks_in_full():
    convs = [layer for layer in CondenseNet(SMALL).learned_layers() if isinstance(layer, LearnedGroupConv)]
    assert [(conv.in_channels, conv.out_channels) for conv in convs] == [(16, 32), (24, 32), (32, 64), (48, 64)]
    assert CondenseNet(SMALL).classifier.in_features == 64


@pytest.mark.parametrize("size", [8, 9, (8, 12), 32])
def test_any_image_size_and_number_of_channels(size):
    config = dataclasses.replace(SMALL, block_depths=(1, 1, 1), growth_rates=(8, 16, 32), in_channels=1)
    height, width = size if isinstance(size, tuple) else (size, size)
    assert CondenseNet(config).eval()(torch.zeros(2, 1, height, width)).shape == (2, 10)


@pytest.mark.parametrize(("stem", "pixels"), [("cifar", 32), ("imagenet", 16), ("densenet", 8)])
def test_stems_reduce_the_image_as_they_should(stem, pixels):
    model = CondenseNet(dataclasses.replace(SMALL, stem=stem))
    assert model.stem(torch.zeros(1, 3, 32, 32)).shape == (1, 16, pixels, pixels)


def test_initial_weights_are_the_authors():
    torch.manual_seed(0)
    model = CondenseNet(presets["condensenet-74"])
    conv = model.get_submodule("blocks.2.11.conv_3x3.conv")  # 32 outputs, 3x3
    assert conv.weight.std().item() == pytest.approx(sqrt(2 / (9 * 32)), rel=0.05)
    conv = model.get_submodule("blocks.2.11.conv_1x1.conv")  # 128 outputs, 1x1
    assert conv.weight.std().item() == pytest.approx(sqrt(2 / 128), rel=0.05)
    assert not model.classifier.bias.any()
    assert model.classifier.weight.abs().max() <= 1 / sqrt(model.classifier.in_features)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


def test_forward_changes_no_mask_and_no_weight():
    model = random_network(SMALL).train()
    model.condense_to(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(4, 3, 8, 8))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".running_" in f".{name.split('.')[-1]}" or "num_batches" in name for name in changed)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(4, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_condensing_stage_by_stage():
    model = random_network(SMALL)
    assert (model.condensing_stage, model.num_condensing_stages, model.is_condensed) == (0, 3, False)
    for stage in (1, 2, 3):
        model.condense_to(stage)
        assert model.condensing_stage == stage
        for layer in model.learned_layers():
            assert layer.group_mask.sum(1).tolist() == [layer.in_channels * (4 - stage) // 4] * 4
    assert model.is_condensed


@share_of_examples(0.625)
@given(configs(), st.data())
def test_skipped_stages_are_caught_up_to_the_same_masks(config, data):
    stepwise, skipping = random_network(config, seed=1), random_network(config, seed=1)
    last = config.num_condensing_stages
    for stage in range(last + 1):
        stepwise.condense_to(stage)
    skipping.condense_to(data.draw(st.integers(0, last)))
    skipping.condense_to(last)
    skipping.condense_to(last)  # again: nothing happens
    assert stepwise.is_condensed
    assert skipping.is_condensed
    pairs = list(zip(stepwise.learned_layers(), skipping.learned_layers(), strict=True))
    assert all(torch.equal(a.group_mask, b.group_mask) for a, b in pairs)


def test_going_back_or_beyond_the_last_stage_is_refused():
    model = random_network(SMALL)
    model.condense_to(2)
    for stage in (1, 4):
        with pytest.raises(ValueError, match=f"condensing_stage={stage} is not allowed: the model is at 2 of 3"):
            model.condense_to(stage)


def test_the_classifier_is_condensed_at_the_last_stage():
    model = random_network(dataclasses.replace(SMALL, condense_classifier=True))
    assert isinstance(model.classifier, LearnedLinear)
    model.condense_to(2)
    assert model.classifier.group_mask.all()
    model.condense_to(3)
    assert model.classifier.group_mask.sum() == model.classifier.in_channels // 2


def test_without_condensation_a_condensed_classifier_still_takes_one_stage():
    model = random_network(dataclasses.replace(SMALL, condensation_factor=1, condense_classifier=True))
    assert (model.condensing_stage, model.num_condensing_stages) == (0, 1)
    model.condense_to(1)
    assert model.is_condensed
    assert all(layer.group_mask.all() for layer in model.learned_layers() if isinstance(layer, LearnedGroupConv))


def test_a_dense_network_is_condensed_from_the_start():
    model = CondenseNet(presets["densenet-bc-100-k12"])
    assert (model.condensing_stage, model.num_condensing_stages, model.is_condensed) == (0, 0, True)


def test_group_lasso_adds_up_all_learned_layers_and_has_finite_gradients():
    model = random_network(SMALL)
    model.condense_to(2)
    value = group_lasso(model)
    assert value.item() == pytest.approx(sum(layer.lasso().item() for layer in model.learned_layers()))
    value.backward()
    for layer in model.learned_layers():
        assert layer.full_weight.grad.isfinite().all()
        assert not layer.full_weight.grad[~layer.mask].any()
        assert layer.full_weight.grad[layer.mask].all()


def test_a_condensed_classifier_has_no_part_in_the_lasso():
    plain, condensing = (random_network(dataclasses.replace(SMALL, condense_classifier=flag)) for flag in (False, True))
    assert group_lasso(plain).item() == group_lasso(condensing).item()


def test_group_lasso_of_a_network_without_learned_layers_is_zero():
    assert group_lasso(nn.Conv2d(3, 8, 1)).item() == 0


def test_a_state_dict_carries_masks_and_condensing_stage():
    model, other = random_network(SMALL, seed=1), random_network(SMALL, seed=2)
    model.condense_to(2)
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert other.condensing_stage == 2
    assert torch.equal(other(images), model(images))


def _torchvisions_name(name: str) -> str:
    for pattern, replacement in (
        (r"stem\.0", "features.conv0"),
        (r"stem\.1", "features.norm0"),
        (r"blocks\.(\d)\.(\d+)\.conv_(\d)x\d\.(norm|conv)", r"features.denseblock<\1>.denselayer<\2>.\4\3"),
        (r"transitions\.(\d)\.conv_1x1", r"features.transition<\1>"),
        (r"^norm", "features.norm5"),
    ):
        name = re.sub(pattern, replacement, name)
    name = re.sub(r"(?<=norm|conv)3(?=\.)", "2", name)  # their second convolution is the 3x3
    return re.sub(r"<(\d+)>", lambda match: str(int(match[1]) + 1), name)


def test_densenet_121_gives_torchvisions_logits():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    reference = models.densenet121(weights=None, num_classes=10).eval()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    model = CondenseNet(dataclasses.replace(presets["densenet-121"], num_classes=10)).eval()
    theirs = reference.state_dict()
    state = model.state_dict()
    for name in state:
        if not name.endswith("group_mask"):
            state[name] = theirs[_torchvisions_name(name)]
    model.load_state_dict(state)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", presets)
def test_every_preset_builds(name):
    with torch.device("meta"):
        model = CondenseNet(presets[name])
    assert model.config is presets[name]


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form='trained' is not allowed: training or grouped"):
        CondenseNet(SMALL, "trained")  # type: ignore[arg-type]
