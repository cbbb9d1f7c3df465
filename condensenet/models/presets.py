"""A named ``ModelConfig`` for each network of this family in the paper's tables.

Sources: the authors' README and the paper's tables 2 to 5 (block depths and growth rates); DenseNet paper, table 1.
"""

from __future__ import annotations

from condensenet.config import ModelConfig

HUB_PREFIX = "hf-hub:"  # begins the name of a network of the Hugging Face Hub: OWNER/NAME
CIFAR_DEPTHS = {50: 8, 74: 12, 86: 14, 98: 16, 110: 18, 122: 20}


def _cifar(depth: int) -> ModelConfig:
    return ModelConfig(block_depths=(depth,) * 3, growth_rates=(8, 16, 32))


def _light(depth: int, growth_rate: int, dropout: float = 0.0) -> ModelConfig:
    return ModelConfig(block_depths=(depth,) * 3, growth_rates=(growth_rate,) * 3, reduction=0.5, dropout=dropout)


def _imagenet(groups: int) -> ModelConfig:
    return ModelConfig(
        block_depths=(4, 6, 8, 10, 8),
        growth_rates=(8, 16, 32, 64, 128),
        groups_1x1=groups,
        groups_3x3=groups,
        condensation_factor=groups,
        num_classes=1000,
        stem="imagenet",
        condense_classifier=True,
    )


def _densenet_bc(depths: tuple[int, ...], growth_rate: int, **rest: object) -> ModelConfig:
    return ModelConfig(
        block_depths=depths,
        growth_rates=(growth_rate,) * len(depths),
        groups_1x1=1,
        groups_3x3=1,
        condensation_factor=1,
        reduction=0.5,
        **rest,  # type: ignore[arg-type]
    )


class _Presets(dict[str, ModelConfig]):
    def __missing__(self, name: str) -> ModelConfig:
        raise KeyError(f"preset={name} is not allowed: {', '.join(self)}")


presets: dict[str, ModelConfig] = _Presets(
    {
        **{f"condensenet-{name}": _cifar(depth) for name, depth in CIFAR_DEPTHS.items()},
        "condensenet-182": ModelConfig(block_depths=(30,) * 3, growth_rates=(12, 24, 48), dropout=0.1),
        "condensenet-74-g4": _imagenet(4),
        "condensenet-74-g8": _imagenet(8),
        "light-94": _light(15, 16),
        "light-160": _light(26, 32, dropout=0.1),
        "densenet-bc-100-k12": _densenet_bc((16,) * 3, 12),
        "densenet-121": _densenet_bc((6, 12, 24, 16), 32, num_classes=1000, stem="densenet"),
    }
)
