"""The authors' own outputs: logits, dropped connections, lasso, conversion and counts of their code, on random weights.

The files stand beside the checkout (``../shared/golden``); without them these tests are skipped.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from condensenet import (
    CondenseNet,
    ModelConfig,
    convert,
    count_cost,
    group_lasso,
    load_authors_checkpoint,
    save_authors_checkpoint,
)
from condensenet.interop import authors_state_dict, halve_classifier

TOLERANCE = 1e-4

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module", params=["cifar-g4c4", "cifar-g4c2"])
def golden(request: pytest.FixtureRequest, shared) -> dict[str, Any]:
    return torch.load(shared / "golden" / f"{request.param}.pt", weights_only=True)


@pytest.fixture(scope="module")
def config(golden) -> ModelConfig:
    return ModelConfig(
        block_depths=tuple(golden["stages"]),
        growth_rates=tuple(golden["growth"]),
        groups_1x1=golden["groups_1x1"],
        groups_3x3=golden["groups_3x3"],
        condensation_factor=golden["condense_factor"],
        bottleneck=golden["bottleneck"],
        num_classes=golden["num_classes"],
    )


@torch.no_grad()
def _agree(model: CondenseNet, golden: dict[str, Any], logits: torch.Tensor) -> None:
    torch.testing.assert_close(model(golden["x"]), logits, rtol=TOLERANCE, atol=TOLERANCE)


def test_logits_before_and_after_each_condensing_stage(golden, config):
    model = load_authors_checkpoint(golden["initial"], config)
    assert model.condensing_stage == 0  # their stage runs ahead of their mask: the mask is right
    _agree(model, golden, golden["logits_initial"])
    for stage, logits in enumerate(golden["logits_by_stage"], 1):
        model.condense_to(stage)
        _agree(model, golden, logits)
    assert model.is_condensed


def test_our_condensing_drops_the_same_connections(golden, config):
    model = load_authors_checkpoint(golden["initial"], config)
    model.condense_to(model.num_condensing_stages)
    masks = [value for name, value in golden["condensed"]["state_dict"].items() if name.endswith("_mask")]
    for layer, mask in zip(model.learned_layers(), masks, strict=True):
        assert torch.equal(layer.mask, mask.bool())


def test_the_condensed_checkpoint_and_its_lasso(golden, config):
    model = load_authors_checkpoint(golden["condensed"], config)
    assert model.is_condensed
    _agree(model, golden, golden["logits_by_stage"][-1])
    assert group_lasso(model).item() == pytest.approx(golden["lasso_at_end"], rel=TOLERANCE)


def test_the_converted_checkpoint(golden, config):
    model = load_authors_checkpoint(golden["converted"], config)
    assert model.form == "grouped"
    assert model.config.condense_classifier
    _agree(model, golden, golden["logits_converted_fc_half"])


def test_our_conversion_with_the_classifier_halved_their_way(golden, config):
    model = load_authors_checkpoint(golden["condensed"], config)
    _agree(convert(model), golden, golden["logits_by_stage"][-1])
    _agree(convert(halve_classifier(model)), golden, golden["logits_converted_fc_half"])
    _agree(halve_classifier(convert(model)), golden, golden["logits_converted_fc_half"])
    _agree(halve_classifier(model), golden, golden["logits_converted_fc_half"])


def test_their_counts(golden, config):
    size = golden["size"]
    training = count_cost(load_authors_checkpoint(golden["initial"], config), size)
    assert (training.paper_flops, training.params) == (golden["ops_train_form"], golden["params_train_form"])
    converted = count_cost(load_authors_checkpoint(golden["converted"], config), size)
    assert (converted.paper_flops, converted.params) == (golden["ops_converted"], golden["params_converted"])


@pytest.mark.parametrize("which", ["initial", "condensed", "converted"])
def test_a_checkpoint_comes_out_as_it_went_in(golden, config, which):
    theirs = {name.removeprefix("module."): value for name, value in golden[which]["state_dict"].items()}
    ours = authors_state_dict(load_authors_checkpoint(golden[which], config))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if which != "initial" or not name.endswith("_stage"):
            torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("which", ["condensed", "converted"])
def test_the_configuration_stands_in_the_checkpoint(golden, config, which):
    model = load_authors_checkpoint(golden[which])
    assert model.config == dataclasses.replace(config, condense_classifier=which == "converted")
    _agree(model, golden, golden["logits_by_stage"][-1] if which == "condensed" else golden["logits_converted_fc_half"])


def test_what_no_mask_shows_yet_is_asked_for(golden, config):
    with pytest.raises(ValueError, match=r"does not tell groups_1x1 \(nothing is dropped yet.*condensation_factor \("):
        load_authors_checkpoint(golden["initial"])
    asked = {"groups_1x1": config.groups_1x1, "condensation_factor": config.condensation_factor}
    assert load_authors_checkpoint(golden["initial"], **asked).config == config


@pytest.mark.parametrize("which", ["condensed", "converted"])
def test_a_saved_checkpoint_has_their_tensors_to_the_bit(golden, config, which, tmp_path):
    save_authors_checkpoint(load_authors_checkpoint(golden[which]), tmp_path / "ours.pth.tar")
    ours = torch.load(tmp_path / "ours.pth.tar", weights_only=True)["state_dict"]
    theirs = golden[which]["state_dict"]
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape)
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)
