"""Each variant on its own, against values worked out by hand and against PyTorch's convolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import condensed
from torch import Tensor

from condensenet import CondenseNet, ModelConfig, convert, load_authors_checkpoint, save_authors_checkpoint
from condensenet.deploy.compare import compare_onnx
from condensenet.deploy.lowering import lower, portable_plan
from condensenet.deploy.lowering.folding import fold_clamp
from condensenet.deploy.lowering.graph_builder import Graph
from condensenet.deploy.lowering.network import Pointwise, Spatial
from condensenet.deploy.lowering.pointwise import VARIANTS as POINTWISE
from condensenet.deploy.lowering.pointwise import PointwiseOp, pad_groups, valid_variants
from condensenet.deploy.lowering.spatial import VARIANTS as SPATIAL
from condensenet.deploy.lowering.spatial import groups_to_merge, merge_groups
from condensenet.deploy.lowering.spatial import valid_variants as valid_spatial_variants

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(graph: Graph, out: str, x: Tensor) -> Tensor:
    proto = graph.model({"x": tuple(x.shape)}, {out: [None] * 4})
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([out], {"x": x.numpy()})[0])


def test_clamp_of_four_inputs_by_hand() -> None:
    """Scales 2, -1, 0 and so small that it is none; shifts 4, 3, 5 and -7."""
    conv = Pointwise(
        in_channels=4,
        groups=1,
        index=np.arange(4),
        scale=np.array([2.0, -1.0, 0.0, 1e-300]),
        shift=np.array([4.0, 3.0, 5.0, -7.0]),
        weight=np.array([[1.0, 10.0, 100.0, 1000.0]]),
        order=np.arange(1),
    )
    clamped = fold_clamp(conv)
    assert clamped.low.tolist() == [-2, -np.inf, -np.inf, -np.inf]
    assert clamped.high.tolist() == [np.inf, 3, np.inf, np.inf]
    assert clamped.weight.tolist() == [[2, -10, 0, 0]]
    assert clamped.bias.tolist() == [4 + 30 + 500]


def random_pointwise(groups: int, inputs: int, outputs: int, in_channels: int) -> Pointwise:
    rng = np.random.default_rng(groups)
    norm = rng.standard_normal((2, in_channels))
    norm[0, ::3] = 0
    index = rng.integers(0, in_channels, groups * inputs)
    return Pointwise(
        in_channels=in_channels,
        groups=groups,
        index=index,
        scale=norm[0, index],
        shift=norm[1, index],
        weight=rng.standard_normal((outputs, inputs)),
        order=np.arange(outputs).reshape(groups, -1).T.ravel(),
    )


@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(1, 5, 3), (2, 3, 32), (3, 16, 48), (4, 7, 64)])
@pytest.mark.parametrize("pools", [False, True])
def test_every_1x1_is_the_convolution_after_batch_norm_and_relu(
    groups: int, inputs: int, outputs: int, pools: bool
) -> None:
    conv = random_pointwise(groups, inputs, outputs, 9)
    rng = np.random.default_rng(0)
    after = {} if pools else {"scale": rng.standard_normal(outputs), "shift": rng.standard_normal(outputs)}
    x = torch.randn(2, 9, 5, 6, generator=torch.Generator().manual_seed(0))
    read = F.relu(x.double()[:, conv.index] * column(conv.scale) + column(conv.shift))
    expected = F.conv2d(read, torch.from_numpy(conv.weight)[:, :, None, None], groups=groups)[:, conv.order]
    if pools:
        expected = F.avg_pool2d(expected, 2)
    else:
        expected = F.relu(expected * column(after["scale"]) + column(after["shift"]))
    names = valid_variants(conv)
    assert {"gathered", "dense"} <= set(names)
    assert ("filled" in names) == (inputs % 16 != 0 and outputs // groups % 16 == 0)
    for name in names:
        graph = Graph()
        actual = run(graph, POINTWISE[name](graph, "x", PointwiseOp(conv=conv, pools=pools, **after)), x)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[:, None, None]


def test_filling_by_hand() -> None:
    conv = pad_groups(random_pointwise(2, 15, 2, 9))
    assert conv.weight[:, 15].tolist() == [0, 0]
    assert conv.index.reshape(2, 16)[:, 15].tolist() == conv.index.reshape(2, 16)[:, 14].tolist()
    assert conv.scale.reshape(2, 16)[:, 15].tolist() == [0, 0]


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 7), (8, 3)])
@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(1, 3, 2), (4, 4, 4), (4, 4, 16), (2, 8, 32), (3, 1, 6)])
def test_every_3x3_is_the_convolution(groups: int, inputs: int, outputs: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    conv = Spatial(
        groups=groups,
        scale=np.ones(groups * inputs),
        shift=np.zeros(groups * inputs),
        weight=rng.standard_normal((outputs, inputs, 3, 3)),
    )
    x = torch.randn(2, groups * inputs, *size, generator=torch.Generator().manual_seed(0))
    expected = F.conv2d(x.double(), torch.from_numpy(conv.weight), padding=1, groups=groups)
    for name in valid_spatial_variants(conv):
        graph = Graph()
        actual = run(graph, SPATIAL[name](graph, "x", conv, size), x)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def test_merging_two_of_two_groups_by_hand() -> None:
    weight = np.arange(1.0, 5.0).reshape(4, 1, 1, 1) * np.ones((4, 1, 3, 3))
    wide = merge_groups(weight, 4, 2)[:, :, 0, 0]
    assert wide.tolist() == [[1, 0], [0, 2], [3, 0], [0, 4]]


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs", "count"), [(8, 16, 32, 4), (8, 64, 128, None), (8, 4, 8, None), (8, 8, 16, 8)]
)
def test_how_many_groups_fill_a_block(groups: int, inputs: int, outputs: int, count: int | None) -> None:
    conv = Spatial(groups=groups, scale=np.ones(1), shift=np.ones(1), weight=np.ones((outputs, inputs, 3, 3)))
    assert groups_to_merge(conv) == count


def test_a_checkpoint_in_the_authors_layout_is_lowered_exactly(tmp_path: Path) -> None:
    config = ModelConfig(
        block_depths=(2, 2, 2),
        growth_rates=(8, 8, 16),
        groups_1x1=4,
        groups_3x3=4,
        condensation_factor=4,
        num_classes=10,
        condense_classifier=False,
    )
    model = condensed(config)
    save_authors_checkpoint(model, tmp_path / "model.pth.tar")
    loaded = load_authors_checkpoint(tmp_path / "model.pth.tar")
    assert isinstance(loaded, CondenseNet)
    grouped = convert(loaded)
    path = lower(grouped, tmp_path / "model.onnx", 32, plan=portable_plan(grouped, 32))
    compare_onnx(model, path, [torch.randn(8, 3, 32, 32)])
