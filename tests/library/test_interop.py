"""The authors' checkpoints, against their networks written as plain functions of a state dict."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hostile import Code
from hypothesis import given
from hypothesis import strategies as st
from networks import (
    authors_drop,
    authors_forward,
    configs,
    images,
    random_network,
    relative_difference,
    share_of_examples,
)

from condensenet import ModelConfig, convert, load_authors_checkpoint, save_model
from condensenet.interop import authors_state_dict, halve_classifier

SMALL = ModelConfig(block_depths=(2, 2), growth_rates=(8, 16), condensation_factor=2)
LIGHT = dataclasses.replace(SMALL, condensation_factor=4, reduction=0.5)
TOLERANCE = 1e-5


def _checkpoint(config: ModelConfig, stage: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    model = random_network(config, seed)
    model.condense_to(stage)
    return authors_state_dict(model)


@share_of_examples(0.5)
@given(configs(), st.data())
@torch.no_grad()
def test_every_form_and_stage_loads_and_computes_as_theirs(config, data):
    config = dataclasses.replace(config, condense_classifier=False)
    state, x = _checkpoint(config), images(config)
    for _ in range(stage := data.draw(st.integers(0, config.num_condensing_stages))):
        authors_drop(state, config)
    for name, value in state.items():
        if name.endswith("_stage"):
            value.fill_(stage)
    model = load_authors_checkpoint(state, config)
    assert model.condensing_stage == stage
    assert relative_difference(model(x), authors_forward(state, config, x)) <= TOLERANCE

    for _ in range(config.num_condensing_stages - stage):
        authors_drop(state, config)
    model.condense_to(config.num_condensing_stages)
    expected = authors_forward(state, config, x)
    assert relative_difference(model(x), expected) <= TOLERANCE

    grouped = convert(model)
    converted = authors_state_dict(grouped)
    assert relative_difference(authors_forward(converted, config, x), expected) <= TOLERANCE
    assert torch.equal(load_authors_checkpoint(converted, config)(x), grouped(x))


@pytest.mark.parametrize("config", [SMALL, LIGHT, dataclasses.replace(SMALL, stem="imagenet")])
@torch.no_grad()
def test_a_classifier_halved_their_way(config):
    model = load_authors_checkpoint(_checkpoint(config, config.num_condensing_stages), config)
    halved = convert(halve_classifier(model))
    state = authors_state_dict(halved)
    linear, kept = model.classifier, halved.classifier.index
    strongest = linear.weight.abs().sum(0).argsort(descending=True)[: linear.in_features // 2]
    assert sorted(kept.tolist()) == sorted(strongest.tolist())
    assert relative_difference(halved(images(config)), authors_forward(state, config, images(config))) <= TOLERANCE
    again = load_authors_checkpoint(state, config)
    assert again.config == dataclasses.replace(config, condense_classifier=True)
    assert torch.equal(again(images(config)), halved(images(config)))
    with pytest.raises(ValueError, match="condensed already"):
        halve_classifier(halved)


@torch.no_grad()
def test_a_configuration_that_condenses_the_classifier_condenses_it_at_the_last_stage():
    config = dataclasses.replace(SMALL, condense_classifier=True)
    model = load_authors_checkpoint(_checkpoint(SMALL, 1), config)
    assert not model.is_condensed
    model.condense_to(1)
    expected = halve_classifier(load_authors_checkpoint(_checkpoint(SMALL, 1), SMALL))
    assert torch.equal(model(images(config)), expected(images(config)))


@pytest.mark.parametrize("groups", [1, 4])
@torch.no_grad()
def test_their_converted_form_without_condensation_becomes_plain_convolutions(groups):
    config = dataclasses.replace(SMALL, groups_1x1=groups, condensation_factor=1)
    state = _checkpoint(config)
    for name in [name.removesuffix("._mask") for name in state if name.endswith("._mask")]:
        for buffer in ("_mask", "_count", "_stage"):
            del state[f"{name}.{buffer}"]
        index = torch.arange(state[f"{name}.conv.weight"].shape[1]).flip(0).repeat(groups)
        state[f"{name}.index"] = index
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.norm.{part}"] = state[f"{name}.norm.{part}"][index]
    model = load_authors_checkpoint(state, config)
    assert relative_difference(model(images(config)), authors_forward(state, config, images(config))) <= TOLERANCE


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {name.replace("features.", "features.module."): value for name, value in state.items()},
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"state": {}}},
        lambda state: {"state_dict": {"state_dict": state}},
        lambda state: dict(reversed(state.items())),
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
    ],
    ids=["module", "features.module", "training file", "twice", "reversed", "old torch"],
)
def test_what_is_wrapped_around_the_tensors_does_not_matter(wrap, tmp_path):
    state = _checkpoint(LIGHT, 2)
    expected = load_authors_checkpoint(state, LIGHT)(images(LIGHT))
    assert torch.equal(load_authors_checkpoint(wrap(state), LIGHT)(images(LIGHT)), expected)
    torch.save(wrap(state), tmp_path / "theirs.pth.tar")
    for path in (tmp_path / "theirs.pth.tar", str(tmp_path / "theirs.pth.tar")):
        assert torch.equal(load_authors_checkpoint(path, LIGHT)(images(LIGHT)), expected)


@pytest.mark.parametrize("claimed", [0, 1, 3])
def test_the_mask_is_believed_and_not_the_stage_beside_it(claimed):
    state = _checkpoint(LIGHT, 1)
    for name, value in state.items():
        if name.endswith("_stage"):
            value.fill_(claimed)  # 3: the authors' code skipped a stage and dropped too little
    model = load_authors_checkpoint(state, LIGHT)
    assert model.condensing_stage == 1
    model.condense_to(3)  # what was skipped is caught up
    assert all(layer.group_mask.sum(1).tolist() == [layer.in_channels // 4] * 4 for layer in model.learned_layers())


def test_a_loaded_model_shares_no_tensor_with_the_checkpoint():
    state = _checkpoint(SMALL)
    before = {name: value.clone() for name, value in state.items()}
    model = load_authors_checkpoint(state, SMALL)
    model.condense_to(1)
    for value in model.state_dict().values():
        value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in state.items())


OTHER_SHAPES = [
    ({"growth_rates": (16, 16)}, "features.init_conv"),
    ({"in_channels": 1}, "features.init_conv"),
    ({"bottleneck": 2}, "features.denseblock_1.denselayer_1.conv_1"),
    ({"groups_3x3": 2}, "features.denseblock_1.denselayer_1.conv_2"),
    ({"block_depths": (1, 2)}, "features.denseblock_1.denselayer_2.conv_1"),
    ({"block_depths": (3, 2)}, "features.denseblock_1.denselayer_3.conv_1"),
    ({"reduction": 0.5}, "features.transition_1.conv"),
    ({"growth_rates": (8, 32)}, "features.denseblock_2.denselayer_1.conv_1"),
    ({"block_depths": (2, 2, 2), "growth_rates": (8, 16, 16)}, "features.denseblock_3.denselayer_1.conv_1"),
    ({"block_depths": (2,), "growth_rates": (8,)}, "features.denseblock_2.denselayer_1.conv_1"),
    ({"num_classes": 7}, "classifier"),
]
OTHER_GROUPS = [  # which only a mask or an index shows
    ({"groups_1x1": 2}, "features.denseblock_1.denselayer_1.conv_1"),
    ({"groups_1x1": 8}, "features.denseblock_1.denselayer_1.conv_1"),
    ({"condensation_factor": 8}, "features.denseblock_1.denselayer_1.conv_1"),
    ({"condensation_factor": 4}, "features.denseblock_1.denselayer_1.conv_1"),
    ({"condensation_factor": 1}, "features.denseblock_1.denselayer_1.conv_1"),
]


@pytest.mark.parametrize(
    ("form", "changes", "layer"),
    [("initial", *case) for case in OTHER_SHAPES]
    + [(form, *case) for form in ("condensed", "converted") for case in OTHER_SHAPES + OTHER_GROUPS],
)
def test_another_configuration_is_refused_with_the_first_layer_that_does_not_fit(form, changes, layer):
    state = _checkpoint(SMALL, 0 if form == "initial" else 1)
    if form == "converted":
        state = authors_state_dict(convert(load_authors_checkpoint(state, SMALL)))
    with pytest.raises(ValueError, match=f"^{layer} does not fit: ") as caught:
        load_authors_checkpoint(state, dataclasses.replace(SMALL, **changes))
    assert "\n" not in str(caught.value)


def test_tensors_that_no_network_of_theirs_has_are_refused():
    state = _checkpoint(SMALL)
    with pytest.raises(ValueError, match=r"layer1.conv.weight is not a name of the authors'"):
        load_authors_checkpoint({**state, "layer1.conv.weight": torch.zeros(1)}, SMALL)
    with pytest.raises(ValueError, match=r"norm_last does not fit: the configuration has no place for extra"):
        load_authors_checkpoint({**state, "features.norm_last.extra": torch.zeros(1)}, SMALL)
    del state["features.norm_last.bias"]
    with pytest.raises(ValueError, match=r"norm_last does not fit: bias is missing"):
        load_authors_checkpoint(state, SMALL)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a state dict"):
        load_authors_checkpoint({"accuracy": 0.9}, SMALL)
    (tmp_path / "broken.pth.tar").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        load_authors_checkpoint(tmp_path / "broken.pth.tar", SMALL)
    with pytest.raises(ValueError, match="init_conv does not fit: stem='densenet' is a 7x7 convolution"):
        load_authors_checkpoint(_checkpoint(SMALL), dataclasses.replace(SMALL, stem="densenet"))


def test_a_file_of_ours_is_named_as_ours(tmp_path):
    save_model(random_network(SMALL), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"is this package's own file, not one of the authors' code: condensenet.load"):
        load_authors_checkpoint(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="is this package's own"):
        load_authors_checkpoint({"fingerprint": {}, "environment": {}, "trainer": {"step": 1}})


def test_an_index_beyond_the_inputs_is_refused():
    state = authors_state_dict(convert(load_authors_checkpoint(_checkpoint(SMALL, 1), SMALL)))
    state["features.denseblock_1.denselayer_2.conv_1.index"][3] = 24
    with pytest.raises(
        ValueError, match=r"denselayer_2.conv_1 does not fit: index goes from 0 to 24, beyond its 24 inputs"
    ):
        load_authors_checkpoint(state, SMALL)


def test_an_index_below_the_inputs_or_of_another_type_is_refused():
    state = authors_state_dict(convert(load_authors_checkpoint(_checkpoint(SMALL, 1), SMALL)))
    name = "features.denseblock_1.denselayer_2.conv_1.index"
    with pytest.raises(ValueError, match=r"denselayer_2.conv_1 does not fit: index goes from -1 to"):
        load_authors_checkpoint({**state, name: state[name] - 1}, SMALL)
    with pytest.raises(ValueError, match=r"denselayer_2.conv_1 does not fit: index is of type torch.float32"):
        load_authors_checkpoint({**state, name: state[name].float()}, SMALL)
    classifier = authors_state_dict(halve_classifier(load_authors_checkpoint(state, SMALL)))
    classifier["classifier.index"][0] = 64
    with pytest.raises(ValueError, match=r"^classifier does not fit: index goes from . to 64, beyond its 64 inputs"):
        load_authors_checkpoint(classifier, SMALL)


@pytest.mark.parametrize("form", ["training", "converted"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_precisions_become_float32(form, dtype):
    model = load_authors_checkpoint(_checkpoint(SMALL, 1), SMALL)
    state = authors_state_dict(model if form == "training" else convert(model))
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    integers = {name: value for name, value in state.items() if name not in floats}
    loaded = load_authors_checkpoint(
        {**{name: value.to(dtype) for name, value in floats.items()}, **{k: v.int() for k, v in integers.items()}},
        SMALL,
    )
    rounded = load_authors_checkpoint({**integers, **{k: v.to(dtype).float() for k, v in floats.items()}}, SMALL)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded(images(SMALL)), rounded(images(SMALL)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "features.init_conv.weight",
            torch.ones(16, 3, 3, 3).int(),
            "init_conv does not fit: weight is of type torch.int32",
        ),
        ("features.init_conv.weight", torch.ones(16, 3, 3, 3).to_sparse(), "weight is not an ordinary dense tensor"),
        ("features.norm_last.bias", torch.ones(64) * 1j, "norm_last does not fit: bias is of type torch.complex64"),
        ("module.features.norm_last.bias", torch.ones(64), "norm_last does not fit: bias is there twice"),
        (
            "features.denseblock_1.denselayer_1.conv_1._mask",
            torch.full((32, 16, 1, 1), 0.5),
            "other values than 0 and 1",
        ),
        (
            "features.denseblock_1.denselayer_1.conv_1._stage",
            torch.tensor([torch.nan]),
            "_stage is not one finite number",
        ),
        (
            "features.denseblock_1.denselayer_1.conv_1._stage",
            torch.tensor([2.0]),
            "dropped at stage 2 does not go with",
        ),
    ],
)
def test_tensors_that_are_not_as_theirs_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_authors_checkpoint({**_checkpoint(SMALL, 1), name: value}, SMALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("old_format", [True, False])
def test_a_whole_checkpoint_of_their_training_loads_and_one_with_code_does_not(old_format, tmp_path, capfd):
    model = random_network(SMALL).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    model(images(SMALL)).sum().backward()
    optimizer.step()
    state = {f"module.{name}": value for name, value in authors_state_dict(model).items()}
    content = {"epoch": 3, "model": "condensenet", "state_dict": state, "best_prec1": 7.5}
    path = tmp_path / "checkpoint_003.pth.tar"
    for extra in (optimizer.state_dict(), Code()):
        torch.save({**content, "optimizer": extra}, path, _use_new_zipfile_serialization=not old_format)
        if isinstance(extra, dict):
            assert torch.equal(load_authors_checkpoint(path, SMALL)(images(SMALL)), model.eval()(images(SMALL)))
    with pytest.raises(
        ValueError, match=r"003.pth.tar contains code \((?:builtins.)?print\), which is never run"
    ) as caught:
        load_authors_checkpoint(path, SMALL)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_an_ordinary_index_of_c_1_must_have_every_input_once_a_group():
    config = dataclasses.replace(SMALL, condensation_factor=1)
    state = authors_state_dict(convert(random_network(config)))
    assert load_authors_checkpoint(state, config).config == config
    layer = "features.denseblock_1.denselayer_1.conv_1"
    with pytest.raises(ValueError, match=rf"^{layer} does not fit: index has shape \(64,\), .* needs \(32,\)"):
        load_authors_checkpoint(state, dataclasses.replace(config, groups_1x1=2))
    with pytest.raises(ValueError, match=f"^{layer} does not fit: norm.weight differs between groups"):
        load_authors_checkpoint({**state, f"{layer}.norm.weight": torch.arange(64.0)}, config)
    with pytest.raises(ValueError, match=f"^{layer} does not fit: a group does not have every input once"):
        load_authors_checkpoint({**state, f"{layer}.index": torch.zeros(64, dtype=torch.int64)}, config)
