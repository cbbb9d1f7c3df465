"""A dense block as one operation: the same function, gradients and statistics as layer by layer."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from condensenet import CondenseNet, ModelConfig
from condensenet.models import condensenet, kernels
from condensenet.models.fused import block as fused_block
from condensenet.models.fused import can_fuse_block, can_fuse_pool, conditions, fused_average_pool, fused_dense_block
from condensenet.models.fused.conditions import norms
from condensenet.models.layers import NormReluConv

pytestmark = [
    pytest.mark.skipif(not kernels.available(), reason="the training kernels are not compiled here"),
    pytest.mark.usefixtures("one_thread"),
]

SMALL = ModelConfig(
    block_depths=(3, 2), growth_rates=(8, 16), groups_1x1=4, groups_3x3=4, condensation_factor=4, num_classes=5
)


@pytest.fixture(autouse=True)
def whatever_is_faster(monkeypatch):
    """What the kernels compute is tested where they are slower, too."""
    monkeypatch.setattr(conditions, "is_faster_fused", lambda layers, features: True)


@pytest.fixture(params=[16, 8, 4])
def lanes(request, monkeypatch) -> int:
    monkeypatch.setenv("CONDENSENET_LANES", str(request.param))
    if kernels.lanes() != request.param:
        pytest.skip(f"this CPU has no vectors of {request.param} floats")
    return request.param


@pytest.mark.parametrize("value", ["abc", "0", "-1", "12", "8x"])
def test_lanes_that_no_cpu_has_are_refused(value, monkeypatch):
    monkeypatch.setenv("CONDENSENET_LANES", value)
    with pytest.raises(ValueError, match=f"CONDENSENET_LANES={value} is not allowed: 16, 8 or 4"):
        kernels.lanes()


def test_no_lanes_asked_for_are_the_widest(monkeypatch):
    monkeypatch.delenv("CONDENSENET_LANES", raising=False)
    widest = kernels.lanes()
    for value in ("", "16"):
        monkeypatch.setenv("CONDENSENET_LANES", value)
        assert kernels.lanes() == widest


def test_kernels_turned_off_after_the_way_there_finish_the_way_back(plain):
    """To the gradients that the layers give in float64."""
    model, (images, labels) = network(SMALL, 1), batch(SMALL, 4, 8, 8)
    doubled = copy.deepcopy(model).double()
    loss = F.cross_entropy(model(images), labels)
    plain()
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    exact = step(doubled, images.double(), labels)
    assert error(found, {name: exact[name] for name in found}) < 1e-4


@pytest.fixture
def plain(monkeypatch):
    """Turns the kernels off from here on."""

    def turn_off() -> None:
        monkeypatch.setenv(kernels.SWITCH, "off")

    return turn_off


def network(config: ModelConfig, condensing_stage: int) -> CondenseNet:
    torch.manual_seed(1)
    model = CondenseNet(config)
    for module in model.modules():  # signs, zeros and small values of scales too
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, mean=0.5)
            torch.nn.init.normal_(module.bias, std=0.5)
            with torch.no_grad():
                module.weight[0], module.weight[-1] = 0.0, 1e-4
    model.condense_to(condensing_stage)
    return model


def batch(config: ModelConfig, images: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(images, config.in_channels, height, width, generator=generator)
    return 2 * x + 1, torch.randint(0, config.num_classes, (images,), generator=generator)


def step(model: CondenseNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss, gradients and running statistics of one training step."""
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {**found, **dict(model.named_buffers()), "loss": loss.detach()}


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Largest difference relative to the largest value of its tensor."""
    return max(
        float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-6))
        for name, value in exact.items()
        if value.is_floating_point()
    )


@pytest.mark.parametrize("condensing_stage", [1, 3])
@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({}, (6, 16, 16)),
        ({}, (3, 9, 13)),
        ({}, (2, 5, 3)),
        ({"groups_1x1": 2}, (4, 8, 8)),
        ({"groups_1x1": 8, "groups_3x3": 2}, (4, 8, 8)),
        ({"groups_1x1": 1, "groups_3x3": 1}, (5, 7, 32)),
        ({"groups_3x3": 8, "growth_rates": (8, 24)}, (5, 12, 12)),
        ({"bottleneck": 3, "groups_1x1": 2, "groups_3x3": 1, "growth_rates": (4, 12)}, (5, 6, 10)),
        ({"reduction": 0.5, "growth_rates": (16, 16)}, (4, 8, 8)),
        ({"stem": "imagenet"}, (2, 34, 30)),
    ],
    ids=str,
)
@pytest.mark.usefixtures("lanes")
def test_same_step_as_layer_by_layer(change, size, condensing_stage, plain):
    """Both are compared with the layers in float64: the fused step may not be further off than the plain one."""
    config = replace(SMALL, **change)
    model = network(config, condensing_stage)
    images, labels = batch(config, *size)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            condensenet, "fused_dense_block", lambda *args, run=fused_dense_block: calls.append(1) or run(*args)
        )
        found = step(copy.deepcopy(model), images, labels)
    assert len(calls) == len(config.block_depths)
    plain()
    exact = step(copy.deepcopy(model).double(), images.double(), labels)
    layer_by_layer = step(copy.deepcopy(model), images, labels)
    assert found.keys() == exact.keys()
    assert all(torch.equal(found[name], exact[name]) for name in exact if name.endswith("batches_tracked"))
    assert error(found, exact) < max(1e-4, 3 * error(layer_by_layer, exact))


@pytest.mark.parametrize("size", [(4, 6), (5, 8), (7, 3), (2, 2), (32, 32)])
@pytest.mark.usefixtures("lanes")
def test_pooling_as_torch_pools(size):
    features = torch.randn(3, 2, *size).transpose(0, 1).requires_grad_()
    gradient = torch.randn(3, 2, size[0] // 2, size[1] // 2).transpose(0, 1)
    assert can_fuse_pool(features)
    results = []
    for pooled in (fused_average_pool(features), F.avg_pool2d(features, 2)):
        results.append((pooled, *torch.autograd.grad(pooled, features, gradient)))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_an_image_too_small_to_pool_is_refused_as_by_torch():
    with pytest.raises(RuntimeError, match="Output size is too small"):
        network(SMALL, 0)(torch.randn(4, 3, 1, 1))


@pytest.mark.parametrize("shape", [(4, 8, 18, 65), (2, 3, 5, 1030), (1, 32, 4, 7), (3, 1, 1, 2100)], ids=str)
@pytest.mark.usefixtures("lanes")
def test_a_1x1_convolution_and_its_gradients_by_autograd(shape):
    groups, outputs, inputs, pixels = shape
    features = 2 * groups * inputs
    x, index = torch.randn(features, pixels), torch.randperm(features)[: groups * inputs]
    scale, shift = torch.randn(2, groups * inputs)
    weight, dy = torch.randn(groups, outputs, inputs), torch.randn(groups * outputs, pixels)
    exact = [value.double().requires_grad_() for value in (x, scale, shift, weight)]
    relu = F.relu(exact[1][:, None] * exact[0][index] + exact[2][:, None]).view(groups, inputs, pixels)
    expected = torch.bmm(exact[3], relu).view(groups * outputs, pixels)
    gradients = torch.autograd.grad(expected, exact, dy.double())
    y = kernels.pointwise(x, index, scale, shift, weight)
    dx = torch.ones_like(x)
    dscale, dshift, dweight = kernels.pointwise_backward(x, index, scale, shift, weight, dy, dx)
    assert (y - expected).abs().max() < 1e-5 * inputs
    for found, gradient in zip((dx - 1, dscale, dshift, dweight), gradients, strict=True):
        assert (found - gradient).abs().max() < 1e-5 * gradient.abs().max().clamp(min=1)


@pytest.mark.parametrize(
    ("growth_rate", "side", "expected"), [(8, 2, True), (32, 8, True), (32, 7, False), (64, 14, False)]
)
def test_blocks_with_many_features_and_small_planes_run_layer_by_layer(growth_rate, side, expected, monkeypatch):
    monkeypatch.undo()
    block = CondenseNet(replace(SMALL, block_depths=(1,), growth_rates=(growth_rate,))).blocks[0]
    features = torch.randn(2, 2 * growth_rate, side, side)
    assert can_fuse_block(list(block), features) is expected


@pytest.mark.parametrize("part", ["conv_1x1.norm", "conv_1x1.conv", "conv_3x3.norm", "conv_3x3.conv"])
@pytest.mark.usefixtures("lanes")
def test_what_is_no_number_reaches_the_loss(part):
    """As layer by layer: a ReLU or a variance that took it for 0 would hide that a training diverged."""
    model = network(SMALL, 0)
    with torch.no_grad():
        model.blocks[0][1].get_submodule(part).weight.view(-1)[1] = float("nan")
    assert step(model, *batch(SMALL, 4, 8, 8))["loss"].isnan()


@pytest.mark.usefixtures("lanes")
def test_threads_share_the_work_without_a_gap():
    before, steps = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 7):  # the last: more than images
            torch.set_num_threads(threads)
            steps.append(step(network(SMALL, 3), *batch(SMALL, 5, 16, 16)))
    finally:
        torch.set_num_threads(before)
    assert max(error(other, steps[0]) for other in steps[1:]) < 1e-4


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.usefixtures("lanes")
def test_same_bits_in_every_run(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        runs = [step(network(SMALL, 3), *batch(SMALL, 5, 16, 16)) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_weights_of_dropped_inputs_get_no_gradient():
    model = network(SMALL, 3)
    step(model, *batch(SMALL, 4, 8, 8))
    for layer in model.learned_layers():
        gradient = layer.full_weight.grad
        assert (gradient[~layer.mask] == 0).all()
        assert (gradient[layer.mask] != 0).any()


def test_only_what_reads_no_more_than_dense_runs_in_grouped_form():
    """G = C = 4: at the last condensing stage four groups of a quarter of the inputs, before that all inputs once."""
    shapes = []
    for condensing_stage in range(4):
        layer = network(SMALL, condensing_stage).blocks[0][1]
        *_, weight, _, _, _, _ = fused_block._tensors(layer)
        shapes.append(tuple(weight.shape))
    assert shapes == [(1, 32, 24)] * 3 + [(4, 8, 6)]


@pytest.mark.parametrize(
    "reason",
    ["evaluation", "no gradient", "float64", "dropout", "hook", "backward hook", "norm", "eps", "one pixel", "off"],
)
def test_layer_by_layer_where_it_must_be(reason, monkeypatch):
    config = replace(SMALL, dropout=0.1 if reason == "dropout" else 0.0)
    model, features = network(config, 0), torch.randn(4, 16, 8, 8)
    block = model.blocks[0]
    assert can_fuse_block(list(network(SMALL, 0).blocks[0]), features)
    if reason == "evaluation":
        model.eval()
    elif reason == "float64":
        model.double()
        features = features.double()
    elif reason == "hook":
        block[1].conv_3x3.register_forward_hook(lambda *_: None)
    elif reason == "backward hook":
        block[1].conv_3x3.register_full_backward_pre_hook(lambda *_: None)
    elif reason == "norm":
        block[0].conv_1x1.norm.momentum = None
    elif reason == "eps":
        for norm in norms(block[1]):
            norm.eps = 0.5
    elif reason == "one pixel":
        features = features[:1, :, :1, :1]
    elif reason == "off":
        monkeypatch.setenv(kernels.SWITCH, "off")
    with torch.set_grad_enabled(reason != "no gradient"):
        assert not can_fuse_block(list(block), features)
        if reason != "one pixel":
            assert block(features).shape == (4, 40, 8, 8)


class Doubled(torch.nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "part",
    [
        torch.nn.Identity(),
        Doubled(32, 8, 3, padding=1, groups=4, bias=False),
        torch.nn.Conv2d(32, 8, 3, padding=2, dilation=2, groups=4, bias=False),
        torch.nn.Conv2d(32, 8, 3, padding=1, groups=4),
        torch.nn.Conv2d(32, 8, 3, padding=1, groups=2, bias=False),
        torch.nn.Conv2d(32, 8, 3, padding=1, groups=4, bias=False, padding_mode="circular"),
        torch.nn.GroupNorm(4, 32),
        "forward",
        "hook on all modules",
        "hook that changes the output in place",
        "full backward hooks on all modules",
        "norm without shift",
        "norm without running statistics",
        torch.nn.BatchNorm2d,
        NormReluConv,
    ],
    ids=str,
)
def test_parts_put_into_a_layer_are_used(part, plain, monkeypatch):
    """What a module is told to do is done, with the kernels as without them."""
    model, (x, _) = network(SMALL, 1), batch(SMALL, 4, 8, 8)
    layer, handle = model.blocks[0][1], None
    if isinstance(part, torch.nn.Identity):
        model.blocks[0].append(part)
    elif isinstance(part, torch.nn.Conv2d):
        layer.conv_3x3.conv = part
    elif isinstance(part, torch.nn.GroupNorm):
        layer.conv_3x3.norm = part
    elif isinstance(part, type):
        forward = part.forward
        monkeypatch.setattr(part, "forward", lambda module, x: 2 * forward(module, x) + 1)
    elif part == "norm without shift":
        layer.conv_3x3.norm.bias = None
    elif part == "norm without running statistics":
        layer.conv_3x3.norm.running_mean = layer.conv_3x3.norm.running_var = None
    elif part == "hook that changes the output in place":
        model.blocks[0].register_forward_hook(lambda module, _, out: out.mul_(2))
    elif part == "full backward hooks on all modules":
        x.requires_grad_()  # else there is nothing to tell the first one
        for module in model.modules():
            module.register_full_backward_hook(lambda *_: None)
    elif part == "forward":
        own = layer.conv_3x3.forward
        layer.conv_3x3.forward = lambda x: 2 * own(x)
    else:
        double = lambda module, _, out: 2 * out if module is layer.conv_3x3 else None  # noqa: E731
        handle = torch.nn.modules.module.register_module_forward_hook(double)
    try:
        actual = step(model, x, torch.arange(len(x)) % 5)
        model.zero_grad()
        plain()
        expected = step(model, x, torch.arange(len(x)) % 5)
        for name in ("loss", "stem.weight"):
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-4)
    finally:
        if handle is not None:
            handle.remove()


def test_recorded_operations_are_those_of_the_layers(plain):
    """A trace holds addresses of no kernel, a counter misses nothing, fake tensors and forward mode come through."""
    model, (x, _) = network(SMALL, 1), batch(SMALL, 4, 8, 8)
    with torch.jit.optimized_execution(False):
        traced = torch.jit.trace(model, x, check_trace=False)
    others = batch(SMALL, 3, 8, 8)[0]
    with FlopCounterMode(display=False) as counted:
        actual = model(x).sum()
        actual.backward()
    with torch.autograd.forward_ad.dual_level():
        model(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
    with FakeTensorMode():
        assert CondenseNet(SMALL)(torch.empty(4, 3, 8, 8)).shape == (4, 5)
    with torch.device("meta"):
        model(x)
    plain()
    torch.testing.assert_close(traced(others), model(others), rtol=1e-4, atol=1e-4)
    with FlopCounterMode(display=False) as expected:
        model(x).sum().backward()
    assert counted.get_total_flops() == expected.get_total_flops()


@pytest.mark.slow
def test_a_forked_process_goes_on():
    """The threads of its parent are gone; waiting for them would take for ever."""
    code = """
import os, torch
from condensenet import CondenseNet, ModelConfig
torch.set_num_threads(2)
net = CondenseNet(ModelConfig(block_depths=(1,), growth_rates=(8,)))
step = lambda: net(torch.randn(64, 3, 32, 32)).sum().backward()
step()
child = os.fork()
if child == 0:
    step()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr


def test_second_derivatives_are_refused():
    block = network(SMALL, 0).blocks[0]
    features = torch.randn(2, 16, 6, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="second derivatives need CONDENSENET_KERNELS=off"):
        torch.autograd.grad(block(features).sum(), features, create_graph=True)


@pytest.mark.slow
def test_kernels_of_another_source_stay_unused(tmp_path, checkout):
    """A copy of the library whose source was changed after it was built."""
    room = tmp_path / "condensenet"
    shutil.copytree(checkout / "condensenet", room, ignore=shutil.ignore_patterns("__pycache__"))
    (room / "models/kernels/rows.c").write_text("/* another */")
    done = subprocess.run(
        [sys.executable, "-c", "from condensenet.models import kernels; print(kernels.available())"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
    assert "was built from other sources and is not used: reinstall" in done.stderr
