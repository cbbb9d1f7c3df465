"""Configurations refuse values of a wrong type in one line, and hold plain Python data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig

WHOLE = "it must be a whole number"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_depths": 2}, "block_depths=2 is not allowed: it must be a list of whole numbers"),
        ({"block_depths": "2-2"}, "block_depths='2-2' is not allowed: it must be a list of whole numbers"),
        ({"block_depths": (2, 1.5)}, "block_depths=(2, 1.5) is not allowed: it must be a list of whole numbers"),
        ({"growth_rates": None}, "growth_rates=None is not allowed: it must be a list of whole numbers"),
        ({"growth_rates": (8, True)}, "growth_rates=(8, True) is not allowed: it must be a list of whole numbers"),
        ({"groups_1x1": "4"}, f"groups_1x1='4' is not allowed: {WHOLE}"),
        ({"groups_3x3": 4.0}, f"groups_3x3=4.0 is not allowed: {WHOLE}"),
        ({"condensation_factor": None}, f"condensation_factor=None is not allowed: {WHOLE}"),
        ({"num_classes": True}, f"num_classes=True is not allowed: {WHOLE}"),
        ({"stem": 3}, "stem=3 is not allowed: cifar, imagenet or densenet"),
        ({"reduction": "half"}, "reduction='half' is not allowed: it must be null or a number"),
        ({"reduction": True}, "reduction=True is not allowed: it must be null or a number"),
        ({"dropout": None}, "dropout=None is not allowed: it must be a number"),
        ({"dropout": float("nan")}, "dropout=nan is not allowed: it must be in [0, 1)"),
        ({"condense_classifier": 1}, "condense_classifier=1 is not allowed: it must be true or false"),
    ],
)
def test_a_wrong_type_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole line is compared
        ModelConfig(**{"block_depths": (2, 2), "growth_rates": (8, 16), **changes})
    assert str(caught.value) == message


def test_the_other_configurations_refuse_wrong_types_too():
    with pytest.raises(ValueError, match="epochs='3' is not allowed: it must be a whole number"):
        TrainConfig(epochs="3")
    with pytest.raises(ValueError, match="compile='fast' is not allowed: none, default or reduce-overhead"):
        TrainConfig(compile="fast")
    with pytest.raises(ValueError, match=r"crop=\['pad'\] is not allowed: none, pad or resized"):
        AugmentConfig(crop=["pad"])
    with pytest.raises(ValueError, match="flip=1 is not allowed: it must be true or false"):
        AugmentConfig(flip=1)


def test_lists_and_numpy_numbers_become_plain_data():
    config = ModelConfig(
        block_depths=[2, np.int64(2)], growth_rates=np.array([8, 16]).tolist(), dropout=np.float32(0.5)
    )
    assert config == ModelConfig(block_depths=(2, 2), growth_rates=(8, 16), dropout=0.5)
    values = dataclasses.asdict(config)
    assert [type(depth) for depth in values["block_depths"]] == [int, int]
    assert type(values["dropout"]) is float
    assert type(TrainConfig(learning_rate=np.float64(0.2)).learning_rate) is float
