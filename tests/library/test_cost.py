"""Costs: by hand, against the paper's tables to the digit, and against torch's own FLOP counter."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from condensenet import CondenseNet, Cost, ModelConfig, convert, count_cost, presets
from condensenet.deploy.latency.mobilenet_torch import mobilenet_v1

# (preset, image size, paper's FLOPs, parameters), the authors' counter to the digit.
TABLE = [
    ("condensenet-50", 32, 28_641_834, 216_506),
    ("condensenet-74", 32, 51_897_066, 405_466),
    ("condensenet-86", 32, 65_816_394, 520_202),
    ("condensenet-98", 32, 81_263_530, 648_442),
    ("condensenet-110", 32, 98_238_474, 790_186),
    ("condensenet-122", 32, 116_741_226, 945_434),
    ("condensenet-182", 32, 512_671_594, 4_221_946),
    ("condensenet-74-g4", 224, 529_328_264, 4_773_944),
    ("condensenet-74-g8", 224, 274_233_480, 2_935_416),
    ("light-94", 32, 121_925_570, 330_506),
    ("densenet-bc-100-k12", 32, 292_377_190, 769_162),
]
# As printed: millions of FLOPs and of parameters, in the authors' README and in the paper.
PRINTED = {
    "condensenet-50": ("28.6", "0.22"),
    "condensenet-74": ("51.9", "0.41"),
    "condensenet-86": ("65.8", "0.52"),
    "condensenet-98": ("81.3", "0.65"),
    "condensenet-110": ("98.2", "0.79"),
    "condensenet-122": ("116.7", "0.95"),
    "condensenet-182": ("513", "4.2"),
    "condensenet-74-g4": ("529", "4.8"),
    "condensenet-74-g8": ("274", "2.9"),
    "light-94": ("122", "0.331"),
    "densenet-bc-100-k12": ("292", "0.77"),
}


def _network(config: ModelConfig, form: str = "training") -> CondenseNet:
    with torch.device("meta"):
        return CondenseNet(config, form)  # type: ignore[arg-type]


def _flop_counter_macs(model: nn.Module, size: int) -> int:
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, channels, size, size, device=next(model.parameters()).device))
    return counter.get_total_flops() // 2  # two of its FLOPs are one multiply-add


# In grouped form one network of each kind: the others differ only in depth, and counting takes a second.
KINDS = ("condensenet-50", "condensenet-74-g4", "condensenet-74-g8", "light-94", "densenet-bc-100-k12")


@pytest.mark.parametrize(
    ("name", "size", "paper_flops", "params", "form"),
    [(*row, "training") for row in TABLE] + [(*row, "grouped") for row in TABLE if row[0] in KINDS],
)
def test_the_papers_tables_to_the_digit(name, size, paper_flops, params, form):
    cost = count_cost(_network(presets[name], form), size)
    assert (cost.paper_flops, cost.params) == (paper_flops, params)
    for printed, value in zip(PRINTED[name], (paper_flops, params), strict=True):
        decimals = len(printed.partition(".")[2])
        assert f"{value / 1e6:.{decimals}f}" == printed


def test_pure_macs_of_the_imagenet_models():
    macs = [count_cost(_network(presets[f"condensenet-74-{g}"]), 224).macs for g in ("g4", "g8")]
    assert [round(value / 1e6, 1) for value in macs] == [516.6, 261.5]


def test_densenet_121_has_torchvisions_parameters_and_macs():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        reference = models.densenet121(weights=None)
    cost = count_cost(_network(presets["densenet-121"]), 224)
    assert cost.params == 7_978_856
    assert cost == count_cost(reference, 224)
    assert cost.macs == _flop_counter_macs(reference, 224)


def test_mobilenet_v1_is_the_papers():
    with torch.device("meta"):
        model = mobilenet_v1()
    cost = count_cost(model, 224)
    assert (cost.macs, cost.params) == (568_740_352, 4_231_976)
    assert (round(cost.macs / 1e6), round(cost.params / 1e6, 1)) == (569, 4.2)
    assert cost.macs == _flop_counter_macs(model, 224)


def test_mobilenet_v1_takes_small_images():
    model = mobilenet_v1(num_classes=10, in_channels=1, stem_stride=1).eval()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["condensenet-50", "condensenet-74-g8", "light-94"])
def test_macs_agree_with_torchs_flop_counter(name):
    model, size = _network(presets[name], "grouped"), 64
    assert count_cost(model, size).macs == _flop_counter_macs(model, size)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0"])
def test_macs_of_other_networks_agree_with_torchs_flop_counter(name):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = getattr(models, name)(weights=None)
    cost = count_cost(model, 64)
    assert cost.macs == _flop_counter_macs(model, 64)
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())
    assert cost.paper_flops > cost.macs


def test_a_convolutional_network_by_hand():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),  # 4 * 4 * 4 outputs of 1 * 9 multiply-adds: 576
        nn.BatchNorm2d(4),
        nn.ReLU(),  # 64
        nn.AvgPool2d(2),  # 4 * 2 * 2 outputs of 4: 64
        nn.AdaptiveAvgPool2d(1),  # 16
        nn.Flatten(),
        nn.Linear(4, 3),  # 12 multiply-adds, 3 biases
        nn.Hardswish(),  # 3
    )
    params = 4 * 1 * 9 + 4 + 2 * 4 + 4 * 3 + 3
    assert count_cost(model, 8) == Cost(macs=576 + 12, paper_flops=576 + 12 + 64 + 64 + 16 + 3 + 3, params=params)


def test_one_dense_layer_by_hand_in_both_forms():
    # G = 4 groups keep half of 16 inputs each: 4 * 8 = 32 gathered channels in the grouped form.
    config = ModelConfig(
        block_depths=(1,), growth_rates=(8,), groups_1x1=4, condensation_factor=2, num_classes=10, in_channels=1
    )
    model = _network(config)
    stem, conv_1x1, conv_3x3, linear = 16 * 9 * 16, 16 * 32 * 16 // 2, 8 * 8 * 9 * 16, 24 * 10
    macs = stem + conv_1x1 + conv_3x3 + linear
    weights = 16 * 9 + 16 * 32 // 2 + 8 * 8 * 9 + 24 * 10 + 10
    norms = 2 * (16 + 32 + 24)
    others = 10 + (16 + 32 + 24) * 16 + 24 * 16  # bias, ReLUs at 4 x 4 pixels, global pool
    assert count_cost(model, 4) == Cost(macs, macs + others, weights + norms)
    assert count_cost(_network(config, "grouped"), 4) == Cost(macs, macs + others + 16 * 16, weights + norms + 2 * 16)


def test_the_training_form_counts_the_same_before_and_after_condensing():
    config = ModelConfig(block_depths=(2, 2), growth_rates=(8, 16), condense_classifier=True)
    model = CondenseNet(config)
    before = count_cost(model, 16)
    model.condense_to(3)
    assert count_cost(model, 16) == before == count_cost(convert(model), 16)


def test_counting_changes_nothing():
    model = CondenseNet(ModelConfig(block_depths=(1,), growth_rates=(8,))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_cost(model, 16)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_height_and_width_may_differ():
    model = _network(dataclasses.replace(presets["condensenet-50"]))
    assert count_cost(model, (16, 64)) == count_cost(model, 32)


def test_what_cannot_be_counted_is_named_and_not_guessed():
    with pytest.raises(ValueError, match=r"cannot be counted: aten.gelu.default, aten.native_layer_norm.default"):
        count_cost(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.LayerNorm(8)), 8)
    with pytest.raises(ValueError, match="transposed convolution"):
        count_cost(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2)), 8)


def test_a_size_that_cannot_be_is_refused():
    model = CondenseNet(presets["condensenet-50"])
    for size in ("32", 32.0, (32, 32, 32), 0, None, 100_000, (32, 4097), 10**5000):
        with pytest.raises(ValueError, match=r"input_size=.* is not allowed: it must be height and width in pixels"):
            count_cost(model, size)
    assert count_cost(model, 4).macs > 0
    with pytest.raises(ValueError, match=r"^CondenseNet takes no image of 3x3 pixels: .*too small$"):
        count_cost(model, 3)
