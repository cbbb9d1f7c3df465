"""Conversion computes the same function, and refuses what it cannot convert."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hostile import Code
from hypothesis import given
from networks import condensed, configs, random_network, relative_difference, share_of_examples
from torch import nn

from condensenet import ModelConfig, convert, count_cost
from condensenet.models.layers import CondensedGroupConv, CondensedLinear, LearnedGroups, NormReluConv
from condensenet.models.storage import load_model, save_model

SMALL = ModelConfig(block_depths=(1, 2), growth_rates=(8, 16), condensation_factor=2)
TOLERANCE = 1e-5


def _images(config: ModelConfig, size: int = 12) -> torch.Tensor:
    return torch.randn(3, config.in_channels, size, size, generator=torch.Generator().manual_seed(1))


@share_of_examples(0.625)
@given(configs())
@torch.no_grad()
def test_the_grouped_form_computes_the_same_for_any_g_and_c(config):
    model, images = condensed(config), _images(config)
    grouped = convert(model)
    assert relative_difference(grouped(images), model(images)) <= TOLERANCE
    assert not any(isinstance(module, LearnedGroups) for module in grouped.modules())
    assert grouped.condensing_stage == model.condensing_stage
    assert count_cost(grouped, 12).macs == count_cost(model, 12).macs


@pytest.mark.parametrize("scale", [0.0, -1.0])
@torch.no_grad()
def test_batch_norm_scales_of_zero_and_below(scale):
    model = condensed(SMALL)
    for layer in model.learned_layers():
        layer.norm.weight.fill_(scale)
    assert relative_difference(convert(model)(_images(SMALL)), model(_images(SMALL))) <= TOLERANCE


def test_the_model_is_left_alone():
    model, images = condensed(SMALL), _images(SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(images)
    grouped = convert(model)
    for value in grouped.state_dict().values():
        value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(images), expected)


def test_conversion_draws_no_random_numbers():
    model = condensed(SMALL)
    state = torch.random.get_rng_state()
    convert(model)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("training", [True, False])
def test_the_grouped_form_is_in_the_models_mode(training):
    assert convert(condensed(SMALL).train(training)).training is training


def test_the_kinds_of_layers_by_g_and_c():
    grouped = convert(condensed(dataclasses.replace(SMALL, condense_classifier=True)))
    assert isinstance(grouped.blocks[0][0].conv_1x1, CondensedGroupConv)
    assert isinstance(grouped.classifier, CondensedLinear)
    dense = convert(condensed(dataclasses.replace(SMALL, groups_1x1=1, condensation_factor=1)))
    assert isinstance(dense.blocks[0][0].conv_1x1, NormReluConv)
    assert isinstance(dense.classifier, torch.nn.Linear)


def test_a_model_not_fully_condensed_is_refused():
    model = random_network(dataclasses.replace(SMALL, condensation_factor=4))
    model.condense_to(2)
    with pytest.raises(ValueError, match="at condensing stage 2 of 3: only a fully condensed model can be converted"):
        convert(model)


def test_a_model_in_grouped_form_is_refused():
    with pytest.raises(ValueError, match="in grouped form already"):
        convert(convert(condensed(SMALL)))


@pytest.mark.parametrize("form", ["training", "grouped"])
def test_files_hold_the_model_to_the_bit(form, tmp_path):
    model = condensed(dataclasses.replace(SMALL, condense_classifier=True))
    model = model if form == "training" else convert(model)
    save_model(model, tmp_path / "a" / "model.pt")
    save_model(model, tmp_path / "again.pt")
    loaded = load_model(tmp_path / "a" / "model.pt")
    assert (loaded.config, loaded.form, loaded.training) == (model.config, form, False)
    assert loaded.condensing_stage == model.condensing_stage
    assert torch.equal(loaded(_images(SMALL)), model(_images(SMALL)))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert (tmp_path / "a" / "model.pt").read_bytes() == (tmp_path / "again.pt").read_bytes()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["model.pt"]


def test_a_file_in_mid_condensing_goes_on_where_it_was(tmp_path):
    model = random_network(dataclasses.replace(SMALL, condensation_factor=4))
    model.condense_to(1)
    save_model(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    for network in (model, loaded):
        network.condense_to(3)
    assert torch.equal(loaded(_images(SMALL)), model(_images(SMALL)))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    save_model(condensed(SMALL), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is not a file of plain tensors, or is incomplete"):
        load_model(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="is not a model file of this library: it must hold condensing_stage, config"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("content", "old_format", "message"),
    [
        (b"nothing", None, r"model.pt is not a file of plain tensors, or is incomplete$"),
        (b"", None, r"model.pt is not a file of plain tensors, or is incomplete$"),
        ({"state_dict": Code()}, False, r"model.pt contains code \((?:builtins.)?print\), which is never run"),
        ({"state_dict": Code()}, True, r"model.pt contains code \((?:builtins.)?print\), which is never run"),
        (nn.Linear(1, 1), False, r"model.pt contains code \(torch.nn.modules.linear.Linear\), which is never run"),
    ],
)
def test_junk_and_code_are_told_apart_in_one_line(content, old_format, message, tmp_path, capfd):
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "does not hold the model that its configuration describes: .*mapping"),
        ({"config": {"depth": 3}}, "does not hold the model that its configuration describes: .*depth"),
        ({"state_dict": {}}, "does not hold the model that its configuration describes: a file of .* cannot hold"),
        ({"state_dict": None}, "does not hold the model that its configuration describes: "),
        ({"form": "other"}, "form='other' is not allowed"),
    ],
)
def test_a_model_file_with_other_content_is_refused_in_one_line(changes, message, tmp_path):
    path = tmp_path / "model.pt"
    save_model(condensed(SMALL), path)
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_converting_what_is_no_condensenet_is_refused():
    with pytest.raises(TypeError, match="convert takes a CondenseNet, not a Linear"):
        convert(nn.Linear(2, 2))
