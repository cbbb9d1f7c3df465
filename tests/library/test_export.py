"""The ONNX file computes what the PyTorch model does, says what it is, and carries nothing else."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condensenet.config import ModelConfig
from condensenet.deploy.compare import compare_onnx
from condensenet.deploy.export import export_onnx
from condensenet.models.condensenet import CondenseNet

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

STANDARD = {
    "AveragePool",
    "BatchNormalization",
    "Concat",
    "Conv",
    "Gather",
    "Gemm",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Transpose",
}
METADATA = {"setting": "g2-c4", "macs": 123, "class_names": ["zéro", "one"], "mean": [0.5]}


def grouped_model(groups: int, condensation_factor: int, **rest: Any) -> CondenseNet:
    """A small network in grouped form whose weights, kept inputs and batch norms are all random."""
    torch.manual_seed(0)
    config = ModelConfig(
        block_depths=(1, 2),
        growth_rates=(4, 8),
        groups_1x1=groups,
        groups_3x3=2,
        condensation_factor=condensation_factor,
        num_classes=3,
        **{"in_channels": 2, **rest},
    )
    model = CondenseNet(config, "grouped")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_()  # negative scales too
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            if hasattr(module, "index"):
                inputs = module.in_channels if hasattr(module, "in_channels") else module.in_features
                module.index.copy_(torch.randint(0, inputs, module.index.shape))
            if isinstance(module, nn.Linear):
                module.bias.normal_()
    return model


def images(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def model() -> CondenseNet:
    return grouped_model(groups=2, condensation_factor=4)


@pytest.fixture(scope="module")
def path(model: CondenseNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("export") / "new" / "m.onnx", (9, 7), metadata=METADATA)


def test_every_logit_agrees_for_any_batch(model: CondenseNet, path: Path) -> None:
    difference = compare_onnx(model, path, [images(1, 2, 9, 7), images(8, 2, 9, 7), images(3, 2, 9, 7)])
    assert difference.images == 12
    assert difference.max_relative <= 1e-6
    assert difference.max_absolute <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "condensation_factor", "rest"),
    [(4, 2, {"condense_classifier": True}), (1, 1, {"in_channels": 3}), (1, 2, {"stem": "imagenet", "reduction": 0.5})],
)
def test_other_forms_agree_too(groups: int, condensation_factor: int, rest: dict[str, Any], tmp_path: Path) -> None:
    model = grouped_model(groups, condensation_factor, **rest)
    path = export_onnx(model, tmp_path / "m.onnx", 8)
    assert compare_onnx(model, path, [images(2, model.config.in_channels, 8, 8)]).max_relative <= 1e-6


@pytest.mark.slow
def test_another_opset_agrees_too(model: CondenseNet, tmp_path: Path) -> None:
    path = export_onnx(model, tmp_path / "m.onnx", (9, 7), opset=21)
    assert [entry.version for entry in onnx.load(path).opset_import] == [21]
    assert compare_onnx(model, path, [images(2, 2, 9, 7)]).max_relative <= 1e-6


def test_the_file_has_standard_operators_and_named_ends(path: Path) -> None:
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.op_type for node in proto.graph.node} <= STANDARD
    assert {node.domain for node in proto.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert not proto.functions
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {"image": ["batch", 2, 9, 7], "logits": ["batch", 3]}


def test_the_metadata_come_back(path: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["setting"] == "g2-c4"
    assert {key: json.loads(metadata[key]) for key in METADATA if key != "setting"} == {
        key: value for key, value in METADATA.items() if key != "setting"
    }
    assert metadata["form"] == "plain"
    assert set(metadata) == {*METADATA, "form"}


def test_the_file_names_no_folder_and_is_little_more_than_its_weights(model: CondenseNet, path: Path) -> None:
    content = path.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"stack_trace" not in content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no external data, no leftovers
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert len(content) < weights + 400 * len(onnx.load(path).graph.node)


@pytest.mark.slow
def test_the_same_model_gives_the_same_file(model: CondenseNet, path: Path, tmp_path: Path) -> None:
    again = export_onnx(model, tmp_path / "again.onnx", (9, 7), metadata=METADATA)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_model_is_left_as_it_was(model: CondenseNet, tmp_path: Path) -> None:
    model.train()
    model.norm.eval()  # a mixture, as when fine-tuning with a frozen norm
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx", (9, 7))
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def tamper(path: Path, to: Path, change: float) -> Path:
    """A copy whose last layer's first bias is ``change`` higher."""
    proto = onnx.load(path)
    name = next(node.input[2] for node in proto.graph.node if node.op_type == "Gemm")
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += change
    bias.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(proto, to)
    return to


def test_a_tampered_file_is_refused_with_both_differences(model: CondenseNet, path: Path, tmp_path: Path) -> None:
    batch = images(4, 2, 9, 7)
    with torch.inference_mode():
        largest = model.eval()(batch).abs().max().item()
    tampered = tamper(path, tmp_path / "tampered.onnx", 0.5)
    with pytest.raises(ValueError, match=rf"relative {0.5 / largest:.3g} .* absolute 0\.5, over 4 images"):
        compare_onnx(model, tampered, [batch])
    difference = compare_onnx(model, tampered, [batch], tolerance=1.01 * 0.5 / largest)
    assert difference.max_absolute == pytest.approx(0.5, rel=1e-3)
    assert difference.max_relative == pytest.approx(0.5 / largest, rel=1e-3)


def test_a_difference_in_one_batch_is_not_lost_among_others(model: CondenseNet, path: Path) -> None:
    batches = [images(1, 2, 9, 7), torch.full((1, 2, 9, 7), float("nan")), images(2, 2, 9, 7)]
    with pytest.raises(ValueError, match="differs from PyTorch"):
        compare_onnx(model, path, batches)


def test_nothing_to_compare_and_other_classes_are_refused(path: Path, model: CondenseNet) -> None:
    with pytest.raises(ValueError, match="no image"):
        compare_onnx(model, path, [])
    other = nn.Sequential(nn.Conv2d(2, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"shape \(2, 3\), PyTorch \(2, 1\)"):
        compare_onnx(other, path, [images(2, 2, 9, 7)])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"opset": 17}, "opset=17 is not allowed: 18 to 25"), ({"input_size": (0, 7)}, r"input_size=\(0, 7\)")],
)
def test_what_cannot_be_is_refused_before_work_starts(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"input_size": 9, **change}
    with pytest.raises(ValueError, match=message):
        export_onnx(grouped_model(1, 1), tmp_path / "m.onnx", **arguments)
    assert os.listdir(tmp_path) == []


def test_a_model_without_convolution_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear has no convolution"):
        export_onnx(nn.Linear(2, 2), tmp_path / "m.onnx", 9)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(
    missing: str, model: CondenseNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(name: str) -> Any:
        if name == missing:
            raise ImportError(name)
        return importlib.import_module(name)

    monkeypatch.setattr("condensenet.deploy.onnx_file.import_module", without)
    with pytest.raises(ImportError, match=f"export_onnx needs {missing}: pip install"):
        export_onnx(model, tmp_path / "m.onnx", (9, 7))


def test_images_too_small_for_the_network_are_refused_before_it_is_traced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"input_size=3 is not allowed: images of this network have 4 pixels a side"):
        export_onnx(
            CondenseNet(ModelConfig(block_depths=(1, 1, 1), growth_rates=(4, 4, 4))), tmp_path / "model.onnx", 3
        )
