"""What users of timm expect of a network: names, features, heads; and what PyTorch's own tools make of it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from networks import SMALL, condensed, images, random_network, relative_difference
from torch import nn
from torch.export import Dim

from condensenet import CondenseNet, ModelConfig, convert, create_model, list_models, presets, register_timm
from condensenet.models.layers import LearnedGroupConv
from condensenet.training import start_from

SIZE = (16, 16)
FORMS = ("training", "grouped")


def network(form: str) -> CondenseNet:
    model = condensed(SMALL) if form == "training" else convert(condensed(SMALL)).eval()
    return model.requires_grad_(False)


def test_every_name_makes_its_network_with_any_number_of_classes():
    assert list_models() == list(presets)
    assert list_models("light-*") == ["light-94", "light-160"]
    assert list_models(pretrained=True) == []
    model = create_model("condensenet-50", num_classes=7, groups_1x1=2)
    assert model.config == dataclasses.replace(presets["condensenet-50"], num_classes=7, groups_1x1=2)
    assert model.training


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("condensenet-87", {}, "'condensenet-87' is not the name of a network: condensenet-50, "),
        ("condensenet-86", {"pretrained": True}, "no weights are published for condensenet-86"),
        ("condensenet-86", {"depth": 3}, "depth=3 is not allowed: fields of ModelConfig are block_depths"),
        ("condensenet-86", {"num_classes": -1}, "num_classes=-1 is not allowed"),
    ],
)
def test_what_create_model_cannot_make_is_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        create_model(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_features_and_head_make_the_logits(form):
    model, x = network(form), images(SMALL, 2, SIZE)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 8, 8)
    assert torch.equal(model.forward_head(features), model(x))
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean(dim=(2, 3)))


@pytest.mark.parametrize("form", FORMS)
def test_every_blocks_output_is_as_feature_info_says(form):
    model, x = network(form), images(SMALL, 2, SIZE)
    final, outputs = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert [info["module"] for info in model.feature_info] == ["blocks.0", "blocks.1"]
    for info, output in zip(model.feature_info, outputs, strict=True):
        assert output.shape[:2] == (2, info["num_chs"])
        assert output.shape[2] == SIZE[0] // info["reduction"]
    seen = []
    hook = model.get_submodule("blocks.1").register_forward_hook(lambda *call: seen.append(call[-1]))
    (last,) = model.forward_intermediates(x, indices=1, intermediates_only=True)
    hook.remove()
    assert torch.equal(last, seen[0])
    assert torch.equal(model.forward_intermediates(x, indices=[-1], norm=True)[1][0], final)


def test_the_strides_of_feature_info_are_those_of_the_stems():
    for stem, size in (("cifar", 32), ("imagenet", 64), ("densenet", 128)):
        model = CondenseNet(dataclasses.replace(SMALL, stem=stem)).eval()
        outputs = model.forward_intermediates(images(SMALL, 1, (size, size)), intermediates_only=True)
        assert [size // output.shape[2] for output in outputs] == [info["reduction"] for info in model.feature_info]


def test_stopping_early_skips_later_blocks():
    model, x = network("training"), images(SMALL, 1, SIZE)
    model.blocks[1] = nn.Identity()
    model.blocks[1].forward = None  # calling it would fail
    (first,) = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
    assert first.shape[1] == model.feature_info[0]["num_chs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indices": 3}, "indices=3 is not allowed: there are 2 blocks"),
        ({"indices": [2]}, "there are 2 blocks"),
        ({"output_fmt": "NHWC"}, "NCHW"),
        ({"stop_early": True}, "without intermediates_only"),
    ],
)
def test_intermediates_that_cannot_be_had_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        network("training").forward_intermediates(images(SMALL, 1, SIZE), **options)


@pytest.mark.parametrize("form", FORMS)
def test_a_new_classifier_has_its_classes_and_leaves_the_features(form):
    model, x = network(form), images(SMALL, 2, SIZE)
    features = model.forward_features(x)
    model.reset_classifier(9)
    assert model.config.num_classes == model.num_classes == 9
    assert model(x).shape == (2, 9)
    assert torch.equal(model.forward_features(x), features)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert torch.equal(model(x), model.forward_head(features, pre_logits=True))
    for options, message in (((3, "max"), "average pooling"), ((3, ""), "num_classes=3: a classifier needs avg")):
        with pytest.raises(ValueError, match=message):
            model.reset_classifier(*options)


@pytest.mark.parametrize("form", FORMS)
def test_pooling_can_be_removed_with_the_classifier(form):
    model, x = network(form), images(SMALL, 2, SIZE)
    features = model.forward_features(x)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)
    assert torch.equal(model.forward_head(features, pre_logits=True), features)
    assert torch.equal(copy.deepcopy(model)(x), features)
    if form == "training":
        assert convert(model)(x).shape == features.shape
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


def test_a_network_goes_on_from_another_with_other_classes():
    trained = condensed(SMALL)
    model = CondenseNet(dataclasses.replace(SMALL, num_classes=3))
    own = model.classifier.linear.weight.clone()
    start_from(model, trained)
    x = images(SMALL, 2, SIZE)
    assert torch.equal(model.eval().forward_features(x), trained.forward_features(x))
    assert torch.equal(model.classifier.linear.weight, own)
    assert model.condensing_stage == 0  # the new classifier is still to be condensed
    with pytest.raises(ValueError, match="a grouped form cannot be trained further"):
        start_from(model, convert(trained))
    with pytest.raises(ValueError, match="growth_rates="):
        start_from(CondenseNet(dataclasses.replace(SMALL, growth_rates=(8, 8))), trained)


def test_the_least_image_size_is_the_least_that_runs():
    for stem in ("cifar", "imagenet", "densenet"):
        for blocks in (1, 2, 3):
            config = ModelConfig(block_depths=(1,) * blocks, growth_rates=(8,) * blocks, stem=stem)
            model, size = CondenseNet(config).eval(), config.min_image_size
            assert model(torch.zeros(1, 3, size, size)).shape == (1, 10)
            if size > 1:
                with pytest.raises(RuntimeError):
                    model(torch.zeros(1, 3, size - 1, size - 1))


# What PyTorch's tools make of a network


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_is_equal_and_independent(form):
    model, x = network(form), images(SMALL, 2, SIZE)
    duplicate = copy.deepcopy(model)
    assert torch.equal(duplicate(x), model(x))
    duplicate.reset_classifier(2)
    assert model(x).shape == (2, 5)


@pytest.mark.parametrize("form", FORMS)
def test_channels_last_gives_the_same_logits(form):
    model, x = network(form), images(SMALL, 2, SIZE)
    expected = model(x)
    actual = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert relative_difference(actual, expected) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_a_trace_gives_the_same_logits_for_any_batch(form):
    model = network(form)
    with pytest.warns(FutureWarning, match="jit.trace"):
        traced = torch.jit.trace(model, images(SMALL, 2, SIZE))
    x = images(SMALL, 3, SIZE)
    assert relative_difference(traced(x), model(x)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_an_exported_program_gives_the_same_logits_for_any_batch(form):
    model = network(form)
    program = torch.export.export(model, (images(SMALL, 2, SIZE),), dynamic_shapes=({0: Dim("batch")},))
    x = images(SMALL, 3, SIZE)
    assert relative_difference(program.module()(x), model(x)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_compiled_code_gives_the_same_logits(form):
    model, x = network(form), images(SMALL, 2, SIZE)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)  # one graph, without a C++ compiler
    assert relative_difference(compiled(x), model(x)) < 1e-6


def test_scripting_is_refused_in_one_line():
    with (
        pytest.warns(FutureWarning),
        pytest.raises(TypeError, match=r"use torch\.jit\.trace") as error,
    ):
        torch.jit.script(network("grouped"))
    assert "\n" not in str(error.value)


def test_hooks_on_layers_and_their_parts_are_called_in_training():
    """But not on the convolution in a learned group convolution: the layer itself applies its masked weight."""
    model, x = random_network(SMALL).train(), images(SMALL, 4, SIZE)
    called = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    model(x).sum().backward()
    masked = {f"{name}.conv" for name, layer in model.named_modules() if isinstance(layer, LearnedGroupConv)}
    everything = {name for name, module in model.named_modules() if not isinstance(module, nn.ModuleList)}
    assert everything - set(called) == masked | {"classifier.linear"}


def test_frozen_layers_do_not_change_the_gradients_of_the_others():
    frozen, whole = random_network(SMALL).train(), random_network(SMALL).train()
    x = images(SMALL, 4, SIZE)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(not name.startswith(("stem", "blocks.0")) and "conv_3x3.norm" not in name)
    frozen(x).square().sum().backward()
    whole(x).square().sum().backward()
    others = dict(whole.named_parameters())
    for name, parameter in frozen.named_parameters():
        if parameter.requires_grad:
            assert relative_difference(parameter.grad, others[name].grad) < 1e-4, name
        else:
            assert parameter.grad is None, name


# timm itself


@pytest.fixture(scope="module")
def timm():
    timm = pytest.importorskip("timm", reason="timm is not installed (extra timm)")
    assert len(register_timm()) == len(presets)
    return timm


@pytest.mark.slow
@pytest.mark.parametrize("name", ["condensenet_50", "condensenet_light_94"])
def test_timm_makes_our_networks(timm, name):
    model = timm.create_model(name, num_classes=4, in_chans=1).eval()
    x = torch.zeros(2, 1, 32, 32)
    assert model(x).shape == (2, 4)
    assert isinstance(model, CondenseNet)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 32, 32)
    assert model.get_parameter(f"{model.default_cfg['classifier']}.weight").shape[0] == 4
    features = timm.create_model(name, features_only=True).eval()
    outputs = features(torch.zeros(1, 3, 32, 32))
    assert [output.shape[1] for output in outputs] == features.feature_info.channels()
    assert [32 // output.shape[2] for output in outputs] == features.feature_info.reduction()
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert len(groups) > 2
    model.set_grad_checkpointing(False)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["condensenet-50", "condensenet-74-g8", "light-94", "densenet-121"])
def test_a_network_of_each_kind_is_as_timms_own_tests_want_it(timm, preset):
    """What its ``test_model_default_cfgs`` asserts of a network, in its words; without weights (device meta)."""
    name = preset.replace("-", "_")
    name = name if name.startswith("condensenet") else f"condensenet_{name}"
    model = timm.create_model(name, device="meta", dtype=torch.float64).eval()
    cfg, parameters = model.default_cfg, dict(model.named_parameters())
    assert {(tensor.device.type, tensor.dtype) for tensor in parameters.values()} == {("meta", torch.float64)}
    assert {f"{cfg[key]}.weight" for key in ("first_conv", "classifier")} <= set(parameters)
    assert model.in_chans == cfg["input_size"][0]
    x = torch.zeros(1, *cfg["input_size"], device="meta", dtype=torch.float64)
    unpooled = (1, model.num_features, *cfg["pool_size"])
    assert model.forward_features(x).shape == unpooled
    model.requires_grad_(False)
    model.reset_classifier(0)
    assert model(x).shape == (1, model.head_hidden_size)
    model.reset_classifier(0, "")
    assert model(x).shape == unpooled
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.reset_classifier(2)
    assert {(p.device.type, p.dtype) for p in model.get_classifier().parameters()} == {("meta", torch.float64)}
    assert not model.get_classifier().training


@pytest.mark.slow
def test_timms_options_mean_what_they_mean_there(timm):
    x = torch.zeros(1, 3, 32, 32)
    bare = timm.create_model("condensenet_50", num_classes=0, global_pool="", drop_rate=0.0, drop_path_rate=0.0).eval()
    assert bare(x).shape == (1, bare.num_features, 8, 8)
    torch.manual_seed(0)
    plain = timm.create_model("condensenet_50").eval()
    torch.manual_seed(0)
    neutral = timm.create_model("condensenet_50", drop_rate=0.0, drop_path_rate=0.0).eval()
    assert torch.equal(neutral(x), plain(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["condensenet_50", "condensenet_densenet_121"])
def test_every_parameter_has_a_gradient(timm, name):
    """Before the first pruning, as in timm's ``test_model_backward``."""
    model = timm.create_model(name, num_classes=4).train()
    logits = model(torch.randn(2, 3, 64, 64))
    logits.mean().backward()
    assert logits.shape == (2, 4)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["getter", "hook"])
def test_timms_extractors_give_the_blocks_outputs(timm, kind):
    """By ``forward_intermediates`` and by hooks, with the same channels and sizes."""
    torch.manual_seed(0)
    model = timm.create_model("condensenet_light_94", features_only=True, out_indices=(0, 2), feature_cls=kind).eval()
    x = torch.randn(1, 3, 32, 32)
    torch.manual_seed(0)
    expected = timm.create_model("condensenet_light_94").eval().forward_intermediates(x, intermediates_only=True)
    outputs = model(x)
    assert [output.shape[1] for output in outputs] == model.feature_info.channels()
    assert all(torch.equal(*pair) for pair in zip(outputs, (expected[0], expected[2]), strict=True))


@pytest.mark.slow
def test_timm_names_what_our_networks_lack(timm):
    with pytest.raises(TypeError, match="no_such is not an option of the network"):
        timm.create_model("condensenet_50", no_such=1)
    with pytest.raises(ValueError, match=r"drop_path_rate=0\.1 is not allowed"):
        timm.create_model("condensenet_50", drop_path_rate=0.1)
    with pytest.raises(ValueError, match="no weights are published for condensenet-50"):
        timm.create_model("condensenet_50", pretrained=True)
    with pytest.raises(ValueError, match="average pooling"):
        timm.create_model("condensenet_50", global_pool="max")
    with pytest.raises(ValueError, match="gradient checkpointing"):
        timm.create_model("condensenet_50").set_grad_checkpointing()
