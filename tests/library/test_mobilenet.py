"""The reference model that is written without torch and onnx: the same network as in PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from condensenet.deploy.cost import count_cost
from condensenet.deploy.latency.measure import input_shape
from condensenet.deploy.latency.mobilenet import convolutions, random_weights, write_mobilenet_v1
from condensenet.deploy.latency.mobilenet_torch import mobilenet_v1
from condensenet.deploy.runtime import open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def trained() -> nn.Module:
    """MobileNetV1 for two channels and five classes with batch norms that are not the identity."""
    torch.manual_seed(0)
    model = mobilenet_v1(5, 2).eval()
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.02, 0.1)
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
    return model


def folded(model: nn.Module) -> Iterator[np.ndarray]:
    """Weight and bias of every convolution with the batch norm after it, then of the classifier."""
    layers = list(model.features)
    for conv, norm in zip(layers[::3], layers[1::3], strict=True):
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        yield (conv.weight * scale[:, None, None, None]).detach().numpy()
        yield (norm.bias - norm.running_mean * scale).detach().numpy()
    yield model.classifier.weight.detach().numpy()
    yield model.classifier.bias.detach().numpy()


@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_it_computes_what_the_network_in_torch_computes(trained: nn.Module, size: tuple[int, int], tmp_path: Path):
    path = write_mobilenet_v1(tmp_path / "mobilenet.onnx", (2, *size), 5, weights=list(folded(trained)))
    onnx.checker.check_model(onnx.load(path), full_check=True)
    images = torch.randn(3, 2, *size)
    (logits,) = open_session(path, 1).run(["logits"], {"image": images.numpy()})
    with torch.inference_mode():
        expected = trained(images).numpy()
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_with_random_weights_it_costs_the_same_and_its_logits_are_ordinary_numbers(tmp_path: Path) -> None:
    path = write_mobilenet_v1(tmp_path / "mobilenet.onnx", (3, 64, 64), 10)
    assert input_shape(path) == (3, 64, 64)
    arrays = random_weights(3, 10)
    weights = sum(array.size for array in arrays[::2]) + 10  # the classifier's bias; the norms' parameters are folded
    norms = sum(2 * module.num_features for module in mobilenet_v1(10).modules() if isinstance(module, nn.BatchNorm2d))
    assert weights + norms == count_cost(mobilenet_v1(10), 64).params
    images = np.random.default_rng(1).standard_normal((2, 3, 64, 64), dtype=np.float32)
    (logits,) = open_session(path, 1).run(None, {"image": images})
    assert logits.shape == (2, 10)
    assert 1e-3 < np.abs(logits).max() < 1e3
    assert path.read_bytes() == write_mobilenet_v1(tmp_path / "again.onnx", (3, 64, 64), 10).read_bytes()


def test_the_strides_are_the_papers() -> None:
    assert np.prod([stride for _, stride, _ in convolutions(3)]) == 32
    assert len(convolutions(3)) == 27


def test_writing_it_needs_neither_torch_nor_onnx(checkout: Path, tmp_path: Path) -> None:
    code = "import sys, condensenet.deploy.latency.mobilenet as m; m.write_mobilenet_v1(sys.argv[1], (1, 8, 8), 10); "
    code += "sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    command = [sys.executable, "-c", code, str(tmp_path / "mobilenet.onnx")]
    assert subprocess.run(command, cwd=checkout, check=False).returncode == 0
