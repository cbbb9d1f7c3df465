"""int8 files: near the float32 function, of standard operators, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import condensed

from condensenet import convert
from condensenet.config import ModelConfig
from condensenet.deploy.export import export_onnx
from condensenet.deploy.quantize import write_int8
from condensenet.deploy.runtime import open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
SHAPE = (2, 9, 7)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(block_depths=(1, 2), growth_rates=(4, 8), groups_1x1=2, in_channels=2, num_classes=3)
    file = tmp_path_factory.mktemp("int8") / "fp32.onnx"
    return export_onnx(convert(condensed(config)), file, SHAPE[1:], metadata={"setting": "s", "form": "plain"})


def test_int8_is_near_and_not_equal(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        written = write_int8(
            path, tmp_path / "new" / "int8.onnx", [images(24), images(8, 1)], metadata={"form": "int8"}
        )
    assert not caplog.records
    assert (written.images, written.operators) == (32, 8)  # stem, two convolutions a layer, the classifier
    expected, actual = (open_session(file, 1).run(None, {"image": images(16, 2)})[0] for file in (path, written.path))
    assert actual.dtype == np.float32
    difference = np.abs(actual - expected).max() / np.abs(expected).max()
    assert 1e-4 < difference < 0.2
    assert [entry.name for entry in written.path.parent.iterdir()] == ["int8.onnx"]


def test_the_file_is_standard_keeps_its_ends_and_its_metadata(path: Path, tmp_path: Path) -> None:
    write_int8(path, tmp_path / "int8.onnx", [images(4)])
    proto, old = onnx.load(tmp_path / "int8.onnx"), onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"setting": "s", "form": "int8"}
    assert [value.SerializeToString() for value in proto.graph.input] == [
        value.SerializeToString() for value in old.graph.input
    ]
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert (tmp_path / "int8.onnx").stat().st_size < 2 * path.stat().st_size


def test_the_same_images_give_the_same_file(path: Path, tmp_path: Path) -> None:
    files = [write_int8(path, tmp_path / name, [images(4)]).path for name in ("a.onnx", "b.onnx")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no calibration image"),
        ([np.zeros((2, 1, 9, 7), np.float32)], r"float32 \(2, 1, 9, 7\) is not float32 \(N, 2, 9, 7\)"),
        ([np.zeros((2, 2, 9, 7))], r"float64 \(2, 2, 9, 7\) is not float32"),
        ([np.full((1, *SHAPE), np.nan, np.float32)], "not finite"),
    ],
)
def test_images_that_do_not_fit_are_refused(batches: list[Any], message: str, path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_int8(path, tmp_path / "int8.onnx", batches)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_quantized_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"not a model")
    for name in ("missing.onnx", "junk.onnx"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as ONNX") as caught:
            write_int8(tmp_path / name, tmp_path / "int8.onnx", [images(1)])
        assert "\n" not in str(caught.value)


def test_a_network_whose_values_are_not_finite_is_refused_in_one_line(path: Path, tmp_path: Path) -> None:
    proto = onnx.load(path)
    for entry in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(entry)
        if values.dtype == np.float32:
            entry.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), entry.name))
    onnx.save(proto, tmp_path / "diverged.onnx")
    with pytest.raises(
        ValueError, match=r"diverged\.onnx cannot be quantized, perhaps its values are not finite: \w.*$"
    ):
        write_int8(tmp_path / "diverged.onnx", tmp_path / "int8.onnx", [images(2)])
    assert not (tmp_path / "int8.onnx").exists()


def test_an_operator_of_ours_is_refused(tmp_path: Path) -> None:
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["batch", *SHAPE]) for name in ("image", "logits")]
    node = onnx.helper.make_node("DenseBlock", ["image"], ["logits"], domain="condensenet")
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "native.onnx")
    with pytest.raises(ValueError, match=r"native\.onnx cannot be quantized: condensenet\.DenseBlock"):
        write_int8(tmp_path / "native.onnx", tmp_path / "int8.onnx", [images(1)])
