"""The configuration of an authors' checkpoint: inferred from it, and what the caller has to set."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from bounds import within_bounds
from hypothesis import given
from hypothesis import strategies as st
from networks import authors_forward, configs, images, random_network, relative_difference

from condensenet import CondenseNet, ModelConfig, convert, load_authors_checkpoint, presets
from condensenet.interop import authors_state_dict, halve_classifier
from condensenet.interop.configuration import infer_groups

CIFAR = ModelConfig(block_depths=(2, 1, 1), growth_rates=(8, 8, 16))  # the authors' number of blocks and classes
FIRST = "features.denseblock_1.denselayer_1.conv_1"
TOLERANCE = 1e-5


def _at(config: ModelConfig, stage: int, seed: int = 0) -> CondenseNet:
    model = random_network(config, seed)
    model.condense_to(stage)
    return model


def _stem(config: ModelConfig) -> dict[str, str]:
    """The keyword that a network other than the authors' CIFAR and ImageNet ones needs."""
    theirs = {(3, 10, "cifar"), (3, 100, "cifar"), (5, 1000, "imagenet")}
    return {} if (len(config.block_depths), config.num_classes, config.stem) in theirs else {"stem": config.stem}


def _of_file(config: ModelConfig) -> ModelConfig:
    """What of ``config`` can be inferred from a file: no dropout, and no reduction without a transition."""
    reduction = config.reduction if len(config.block_depths) > 1 else None
    return dataclasses.replace(config, dropout=0.0, reduction=reduction)


@given(configs(), st.booleans())
@torch.no_grad()
def test_a_converted_checkpoint_alone_leads_to_the_same_network(config, halved):
    model = _at(config, config.num_condensing_stages)
    if halved and not config.condense_classifier:
        model = halve_classifier(model)
    grouped = convert(model)
    loaded = load_authors_checkpoint(authors_state_dict(grouped), **_stem(config))
    assert loaded.form == "grouped"
    assert loaded.config == _of_file(model.config)
    assert torch.equal(loaded(images(config)), grouped(images(config)))


@given(configs(), st.data())
@torch.no_grad()
def test_a_training_form_leads_to_the_same_network_or_asks(config, data):
    config = dataclasses.replace(config, condense_classifier=False)
    model = _at(config, data.draw(st.integers(0, config.num_condensing_stages)))
    state, stem = authors_state_dict(model), _stem(config)
    asked = {"groups_1x1": config.groups_1x1, "condensation_factor": config.condensation_factor}
    try:
        loaded = load_authors_checkpoint(state, **stem)
    except ValueError as error:
        assert str(error).startswith("the checkpoint does not tell ")  # noqa: PT017 both outcomes are right
        asked = {name: value for name, value in asked.items() if f"{name}=..." in str(error)}
        assert asked
        loaded = load_authors_checkpoint(state, **stem, **asked)
    assert loaded.config == _of_file(config)
    assert loaded.condensing_stage == model.condensing_stage
    assert torch.equal(loaded(images(config)), model(images(config)))


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_condensed_training_form_never_asks_for_g_and_c(groups, factor):
    config = dataclasses.replace(CIFAR, groups_1x1=groups, condensation_factor=factor)
    assert load_authors_checkpoint(authors_state_dict(_at(config, factor - 1))).config == config


@pytest.mark.parametrize(
    ("factor", "stage", "choices"),
    [
        (8, 0, "1, 2, 4 and 8"),
        (4, 0, "1, 2, 4 and 8"),
        (4, 1, None),  # 1/4 dropped at stage 1
        (4, 2, None),  # 1/2 dropped at stage 2: with C = 2 there is no stage 2
        (8, 1, None),
        (8, 2, "4 and 8"),  # 1/4 dropped at stage 2: C = 8, or C = 4 and a skipped stage
        (8, 3, None),  # 3/8
        (8, 7, None),
    ],
)
def test_the_condensation_factor_is_asked_for_only_if_several_lead_to_the_masks(factor, stage, choices):
    config = dataclasses.replace(CIFAR, condensation_factor=factor)
    state = authors_state_dict(_at(config, stage))
    if choices is None:
        assert load_authors_checkpoint(state).config == config
        return
    with pytest.raises(ValueError, match=rf"condensation_factor \({choices} lead to these masks\): call") as caught:
        load_authors_checkpoint(state)
    assert "\n" not in str(caught.value)
    assert ("groups_1x1=..." in str(caught.value)) == (stage == 0)
    assert load_authors_checkpoint(state, groups_1x1=4, condensation_factor=factor).config == config


def test_the_stem_is_asked_for_if_the_network_is_none_of_theirs():
    for classes, depths, stem in [(10, (1, 1, 1), "cifar"), (100, (1, 2, 1), "cifar"), (1000, (1,) * 5, "imagenet")]:
        config = ModelConfig(block_depths=depths, growth_rates=(8,) * len(depths), num_classes=classes, stem=stem)
        assert load_authors_checkpoint(authors_state_dict(convert(_at(config, 3)))).config == config
    for classes, depths in [(10, (1, 1)), (7, (1, 1, 1)), (1000, (1, 1, 1)), (10, (1,) * 5)]:
        config = ModelConfig(block_depths=depths, growth_rates=(8,) * len(depths), num_classes=classes)
        state = authors_state_dict(convert(_at(config, 3)))
        message = rf"does not tell stem \(no tensor holds its stride, and {len(depths)} blocks with {classes} classes"
        with pytest.raises(ValueError, match=message):
            load_authors_checkpoint(state)
        for stem in ("cifar", "imagenet"):
            assert load_authors_checkpoint(state, stem=stem).config == dataclasses.replace(config, stem=stem)


@pytest.mark.parametrize("reduction", [0.5, 0.25, 0.3, 0.75, 1.0, 0.123])
def test_the_reduction_is_the_simplest_that_leads_to_the_same_channels(reduction):
    config = dataclasses.replace(CIFAR, block_depths=(4, 3, 2), condensation_factor=1, reduction=reduction)
    loaded = load_authors_checkpoint(authors_state_dict(convert(random_network(config))))
    assert loaded.config.reduction is not None
    assert list(loaded.config.learned_convolutions()) == list(config.learned_convolutions())
    if reduction != 0.123:
        assert loaded.config == config


def test_presets_are_inferred():
    for name in ("condensenet-50", "condensenet-74-g8", "light-94"):
        config = presets[name]
        grouped = convert(_at(config, config.num_condensing_stages))
        assert load_authors_checkpoint(authors_state_dict(grouped)).config == config


@pytest.mark.parametrize(("reduction", "groups_3x3"), [(0.5, 1), (0.5, 4), (None, 2)])
@torch.no_grad()
def test_their_plain_densenet_is_one_group_without_condensation(reduction, groups_3x3):
    dense = dataclasses.replace(CIFAR, groups_1x1=1, groups_3x3=groups_3x3, condensation_factor=1, reduction=reduction)
    state = authors_state_dict(random_network(dense))
    expected = authors_forward(state, dense, images(dense))
    for name in [name for name in state if name.endswith(("_mask", "_count", "_stage"))]:
        del state[name]
    loaded = load_authors_checkpoint(state)
    assert loaded.config == dense
    assert relative_difference(loaded(images(dense)), expected) <= TOLERANCE
    state[f"{FIRST}.conv.weight"] = state[f"{FIRST}.conv.weight"][:, ::2]
    with pytest.raises(ValueError, match=f"{FIRST} does not fit: a filter reads 8 of 16 inputs without mask or index"):
        load_authors_checkpoint(state)


def test_how_many_groups_masks_are_of():
    one = torch.tensor([[1, 1, 0, 0, 1, 0]]).bool()
    two = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 1]]).bool()
    assert infer_groups([]) == (1, False)
    assert infer_groups([torch.ones(4, 6).bool()]) == (1, False)
    assert infer_groups([two.repeat(3, 1)]) == (2, False)  # four groups look so by chance once in 20 ** 2
    assert infer_groups([two.repeat(3, 1)] * 3) == (2, True)  # once in 64 million
    assert infer_groups([one.repeat(6, 1)] * 4) == (1, False)
    assert infer_groups([one.repeat(6, 1)] * 5) == (1, True)
    three = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]]).bool()
    assert infer_groups([two.repeat(3, 1), three.repeat(2, 1)])[0] == 6


def test_so_few_masks_that_chance_explains_them_are_asked_about():
    config = ModelConfig(
        block_depths=(1, 1, 1), growth_rates=(2, 2, 2), groups_1x1=1, groups_3x3=1, condensation_factor=2
    )
    state = authors_state_dict(_at(config, 1))
    with pytest.raises(ValueError, match=r"not tell groups_1x1 \(the masks are of 1 groups, but so few could be of"):
        load_authors_checkpoint(state)
    assert load_authors_checkpoint(state, groups_1x1=1).config == config


@pytest.mark.parametrize("form", ["converted", "training"])
def test_what_is_given_must_fit(form):
    model = _at(CIFAR, 3)
    state = authors_state_dict(model if form == "training" else convert(model))
    for wrong in ({"groups_1x1": 2}, {"condensation_factor": 2}):
        with pytest.raises(ValueError, match=f"^{FIRST} does not fit: "):
            load_authors_checkpoint(state, **wrong)
    with pytest.raises(ValueError, match="stem='vgg' is not allowed"):
        load_authors_checkpoint(state, stem="vgg")
    with pytest.raises(ValueError, match="groups_1x1 beside config is not allowed: config has all settings"):
        load_authors_checkpoint(state, CIFAR, groups_1x1=4)
    with pytest.raises(TypeError, match="config must be a ModelConfig, not a dict"):
        load_authors_checkpoint(state, {"groups_1x1": 4})


BROKEN = [  # the keys that go, the layer that is named
    ("features.init_conv", "features.init_conv"),
    ("denselayer_1.conv_1.conv", FIRST),
    ("denseblock_1.denselayer_1.conv_2", "features.denseblock_1.denselayer_1.conv_2"),
    ("denseblock_1.denselayer_1", FIRST),
    ("denseblock_1", FIRST),
    ("denseblock_2", "features.denseblock_2.denselayer_1.conv_1"),
    ("denseblock_3", "features.norm_last"),
    ("denseblock", FIRST),
    ("running_var", FIRST),
    ("norm_last", "features.norm_last"),
    ("classifier", "classifier"),
    ("classifier.bias", "classifier"),
]


@pytest.mark.parametrize("form", ["converted", "training"])
@pytest.mark.parametrize(("gone", "layer"), BROKEN)
def test_a_truncated_checkpoint_is_refused_with_the_first_layer_that_does_not_fit(form, gone, layer):
    model = _at(CIFAR, 3)
    state = authors_state_dict(model if form == "training" else convert(model))
    cut = {name: value for name, value in state.items() if gone not in name}
    with pytest.raises(ValueError, match=f"^{layer} does not fit: ") as caught:
        load_authors_checkpoint(cut, stem="cifar")
    assert "\n" not in str(caught.value)


@given(st.data())
def test_no_broken_tensor_leads_to_anything_but_one_clear_line(data):
    model = _at(CIFAR, data.draw(st.sampled_from([0, 2, 3])))
    state = authors_state_dict(convert(model) if model.is_condensed and data.draw(st.booleans()) else model)
    unread = ("num_batches_tracked", "_count")
    name = data.draw(st.sampled_from(sorted(name for name in state if not name.endswith(unread))))
    breakage = data.draw(st.sampled_from(["none", "half", "twice", "scalar", "flat", "nothing", "complex"]))
    value = state[name]
    state[name] = {
        "none": lambda: value,
        "half": lambda: value[: len(value) // 2],
        "twice": lambda: torch.cat([value, value]),
        "scalar": lambda: value.flatten()[0],
        "flat": lambda: value.flatten()[None],
        "nothing": lambda: value[:0],
        "complex": lambda: value.to(torch.complex64),
    }[breakage]()
    asked = {"groups_1x1": 4, "condensation_factor": 4}
    if breakage == "none" or (name.endswith("_stage") and breakage in ("scalar", "flat")):
        assert load_authors_checkpoint(state, **asked).config == CIFAR
        return
    with within_bounds(), pytest.raises(ValueError, match=r" does not fit: |does not tell stem") as caught:
        load_authors_checkpoint(state, **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["\x1b[31m", "x" * 100_000, "classifier.\u202e", "classifier." + "x" * 300])
def test_a_name_that_would_disturb_the_message_is_shown_escaped_and_cut_off(name):
    with pytest.raises(ValueError, match="is not a name of the authors' CondenseNet") as caught:
        load_authors_checkpoint({name: torch.zeros(1)})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_broken_mask_is_named_also_if_it_looks_like_more_groups():
    state = authors_state_dict(_at(CIFAR, 3))
    layer = "features.denseblock_2.denselayer_1.conv_1"
    state[f"{layer}._mask"][5] = state[f"{layer}._mask"][5].flip(0)  # one filter unlike the others of its group
    with pytest.raises(ValueError, match=f"^{layer} does not fit: its masks are those of 32 groups, .* has 4"):
        load_authors_checkpoint(state)


def test_a_mask_of_another_shape_than_its_weights_is_named():
    state = authors_state_dict(_at(CIFAR, 3))
    state[f"{FIRST}._mask"] = torch.arange(2 * 10**6).remainder(2).float().reshape(1, -1, 1, 1)
    with pytest.raises(ValueError, match=rf"^{FIRST} does not fit: _mask has shape \(1, 2000000, 1, 1\), conv.weight "):
        load_authors_checkpoint(state)
    state[f"{FIRST}.conv.weight"] = state[f"{FIRST}._mask"]
    with pytest.raises(
        ValueError, match=rf"^{FIRST} does not fit: conv.weight has shape .*: 65536 is the largest size"
    ):
        load_authors_checkpoint(state)


def test_a_mask_of_many_inputs_takes_no_time():
    mask = torch.arange(2 * 10**6).remainder(2).bool()[None]
    started = time.monotonic()
    assert infer_groups([mask]) == (1, True)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("count", [2 * 10**8, 10**13])
def test_a_tensor_that_repeats_its_values_is_refused_before_it_is_converted(count):
    state = authors_state_dict(_at(CIFAR, 3))
    state[f"{FIRST}.conv.weight"] = torch.zeros(1, dtype=torch.float16).expand(count)
    with pytest.raises(ValueError, match=rf"^{FIRST} does not fit: conv.weight of shape \({count},\) repeats some"):
        load_authors_checkpoint(state)
