"""What the library's tests share: small random networks, and the authors' networks as plain functions.

The functions work on a state dict in the authors' layout alone and use nothing of the library, so they are an
independent reference for loading, condensing and converting.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from condensenet import CondenseNet, ModelConfig

State = dict[str, Tensor]
SMALL = ModelConfig(
    block_depths=(2, 1),
    growth_rates=(8, 16),
    groups_1x1=4,
    groups_3x3=2,
    condensation_factor=2,
    num_classes=5,
    condense_classifier=True,
)


def share_of_examples(share: float) -> settings:
    """So many of the examples that the profile asks for, for a test that is slow; an example may take any time."""
    return settings(max_examples=round(share * settings.default.max_examples), deadline=None)


def random_network(config: ModelConfig, seed: int = 0) -> CondenseNet:
    """In evaluation mode, with batch norms that hide nothing: negative and zero scales, statistics of their own."""
    torch.manual_seed(seed)
    model = CondenseNet(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.3)
            module.weight.data[torch.rand(module.num_features) < 0.1] = 0.0
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def condensed(config: ModelConfig, seed: int = 0) -> CondenseNet:
    """``random_network`` in its training form, condensed to the end."""
    model = random_network(config, seed)
    model.condense_to(model.num_condensing_stages)
    return model


def set_scales(model: CondenseNet, scale: float) -> None:
    """Make ``scale`` the weight of every third channel in all batch norms."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[::3] = scale


def images(config: ModelConfig, count: int = 2, size: tuple[int, int] = (16, 16)) -> Tensor:
    """Random images (count, C, H, W), the same in every call; ``size`` is (H, W)."""
    return torch.randn(count, config.in_channels, *size, generator=torch.Generator().manual_seed(1))


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any G and C, G != C among them, of both families; channels are multiples of 12, so that most G and C fit."""
    depths = draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))
    groups, factor = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.sampled_from([1, 2, 3, 4, 6]))
    return ModelConfig(
        block_depths=tuple(depths),
        growth_rates=tuple(draw(st.sampled_from([12, 24])) for _ in depths),
        groups_1x1=groups,
        groups_3x3=draw(st.sampled_from([1, 2, 3])),
        condensation_factor=factor,
        bottleneck=draw(st.integers(1, 2)),
        num_classes=draw(st.integers(2, 5)),
        in_channels=draw(st.sampled_from([1, 3])),
        stem=draw(st.sampled_from(["cifar", "imagenet"])),
        reduction=draw(st.sampled_from([None, 1.0])),  # 1.0 keeps the channels divisible
        dropout=draw(st.sampled_from([0.0, 0.1])),
        condense_classifier=draw(st.booleans()),
    )


def _norm_relu(state: State, name: str, x: Tensor) -> Tensor:
    statistics = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, *statistics))


def _conv_1x1(state: State, name: str, groups: int, x: Tensor) -> Tensor:
    weight = state[f"{name}.conv.weight"]
    if f"{name}.index" not in state:
        return F.conv2d(_norm_relu(state, f"{name}.norm", x), weight * state[f"{name}._mask"])
    x = _norm_relu(state, f"{name}.norm", x[:, state[f"{name}.index"]])
    x = F.conv2d(x, weight, groups=groups)
    images, channels, height, width = x.shape
    return x.view(images, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


def authors_forward(state: State, config: ModelConfig, x: Tensor) -> Tensor:
    """Logits of the authors' CondenseNet or DenseNet_LGC, training or converted form, in evaluation."""
    x = F.conv2d(x, state["features.init_conv.weight"], stride=2 if config.stem == "imagenet" else 1, padding=1)
    for block, depth in enumerate(config.block_depths, 1):
        for layer in range(1, depth + 1):
            name = f"features.denseblock_{block}.denselayer_{layer}"
            new = _norm_relu(state, f"{name}.conv_2.norm", _conv_1x1(state, f"{name}.conv_1", config.groups_1x1, x))
            new = F.conv2d(new, state[f"{name}.conv_2.conv.weight"], padding=1, groups=config.groups_3x3)
            x = torch.cat([x, new], 1)
        if block < len(config.block_depths):
            if config.reduction is not None:
                x = _conv_1x1(state, f"features.transition_{block}.conv", config.groups_1x1, x)
            x = F.avg_pool2d(x, 2)
    x = _norm_relu(state, "features.norm_last", x).mean((2, 3))
    if "classifier.index" in state:
        x = x[:, state["classifier.index"]]
        return F.linear(x, state["classifier.linear.weight"], state["classifier.linear.bias"])
    return F.linear(x, state["classifier.weight"], state["classifier.bias"])


def authors_drop(state: State, config: ModelConfig) -> None:
    """One condensing stage of every layer, weight by weight: their rule in its plainest form, in place."""
    for name in [name.removesuffix("._mask") for name in state if name.endswith("._mask")]:
        mask, weight = state[f"{name}._mask"], state[f"{name}.conv.weight"].abs()
        outputs, inputs = mask.shape[:2]
        for group in range(config.groups_1x1):
            filters = range(group, outputs, config.groups_1x1)
            remaining = [i for i in range(inputs) if mask[group, i] == 1]
            remaining.sort(key=lambda i: float(sum(weight[o, i] for o in filters)))
            for i in remaining[: inputs // config.condensation_factor]:
                for o in filters:
                    mask[o, i] = 0
