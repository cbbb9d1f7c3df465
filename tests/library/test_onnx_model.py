"""ONNX files that load but do not fit images, or what they say of them: one line, at ``load`` or at the first call."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from condensenet import OnnxModel, Preprocessing, predict

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PREPROCESSING = Preprocessing(
    image_size=8, resize_shorter=9, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, classes=("a", "b", "c")
)
IMAGE = torch.arange(3 * 9 * 9, dtype=torch.uint8).view(3, 9, 9)
FLOAT, FLOAT16, INT64, STRING = 1, 10, 7, 8
FAILS = [  # when it runs: 192 numbers are no rows of 5
    onnx.helper.make_node("Constant", [], ["shape"], value_ints=[-1, 5]),
    onnx.helper.make_node("Reshape", ["image", "shape"], ["logits"]),
]


def write(
    path: Path,
    shape: Sequence[Any] = ("batch", 3, 8, 8),
    kind: int = FLOAT,
    *,
    axes: tuple[int, ...] = (2, 3),
    to: int = FLOAT,
    nodes: Sequence[Any] = (),
    size: int = 8,
) -> Path:
    """The image's mean over ``axes`` as type ``to``: the colours' means are the logits of three classes."""
    make = onnx.helper
    axes_value = onnx.numpy_helper.from_array(torch.tensor(axes).numpy(), "axes")
    nodes = nodes or [
        make.make_node("Cast", ["image"], ["float"], to=FLOAT),
        make.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
        make.make_node("Cast", ["means"], ["logits"], to=to),
    ]
    values = [make.make_tensor_value_info("image", kind, shape), make.make_tensor_value_info("logits", to, None)]
    graph = make.make_graph(nodes, "g", values[:1], values[1:], [axes_value])
    proto = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=8)
    about = dataclasses.replace(PREPROCESSING, image_size=size, resize_shorter=size).as_dict().items()
    make.set_model_props(proto, {key: value if isinstance(value, str) else json.dumps(value) for key, value in about})
    path.write_bytes(proto.SerializeToString())
    return path


def test_what_fits_gives_the_logits_that_its_graph_says(tmp_path: Path) -> None:
    model = OnnxModel(write(tmp_path / "model.onnx"))
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(model(images), images.mean(dim=(2, 3)))
    assert len(predict(model, [IMAGE, IMAGE])) == 2


@pytest.mark.parametrize(("size", "sizes"), [(8, [32, 1]), (1024, [8, 1]), (4096, [1, 1])])
def test_a_batch_has_at_most_as_many_images_as_fit_into_memory(tmp_path: Path, size: int, sizes: list[int]) -> None:
    found = []

    class Recorded(OnnxModel):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            found.append(len(images))
            return super().__call__(images)

    model = Recorded(write(tmp_path / "model.onnx", ("batch", 3, size, size), size=size))
    assert len(predict(model, [IMAGE] * sum(sizes))) == sum(sizes)
    assert found == sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": FLOAT16}, r"it takes tensor\(float16\) .*, not tensor\(float\) \(batch, channels, height, width\)$"),
        (
            {"shape": ("batch", 192), "axes": (1,)},
            r"it takes tensor\(float\) \['batch', 192\], not tensor\(float\) \(batch, ",
        ),
        ({"shape": ("batch", 3, "h\n\x1b", 8)}, r"it takes tensor\(float\) \['batch', 3, 'h\\n\\x1b', 8\], not "),
        ({"shape": ("batch", 3, 8, 9)}, r"takes images of shape \(3, 8, 9\), its preprocessing makes \(3, 8, 8\)$"),
        ({"shape": ("batch", 1, 8, 8)}, r"takes images of shape \(1, 8, 8\), its preprocessing makes \(3, 8, 8\)$"),
    ],
)
def test_a_network_for_other_images_is_refused_when_it_is_loaded(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "model.onnx", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        OnnxModel(path)
    assert str(caught.value).startswith(f"{path}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (4, 3, 8, 8)}, r"takes float32 images of shape \(4, 3, 8, 8\), not torch.float32 of \(1, 3, 8, 8\)"),
        ({"to": INT64}, r"gives torch.int64 \(1, 3\) for 1 images, not float32 logits \(images, classes\)$"),
        ({"to": FLOAT16}, r"gives torch.float16 \(1, 3\) for 1 images, not float32 logits"),
        ({"to": STRING}, "gives logits that are no numbers$"),
        ({"axes": (0, 1, 2, 3)}, r"gives torch.float32 \(\) for 1 images, not float32 logits"),
        ({"axes": (0, 2)}, r"gives torch.float32 \(3, 8\) for 1 images, not float32 logits"),
        ({"axes": (2,)}, r"gives torch.float32 \(1, 3, 8\) for 1 images, not float32 logits"),
        ({"nodes": FAILS}, r"does not run on images of shape \(1, 3, 8, 8\): "),
    ],
)
def test_logits_that_are_none_and_graphs_that_fail_are_refused_when_they_are_called(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "model.onnx", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        predict(OnnxModel(path), [IMAGE])
    assert str(caught.value).startswith(f"{path} ")
    assert str(caught.value).isprintable()


def test_images_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    model = OnnxModel(write(tmp_path / "model.onnx"))
    for images in (torch.zeros(1, 3, 8, 9), torch.zeros(1, 3, 8, 8).double(), torch.zeros(3, 8, 8)):
        with pytest.raises(ValueError, match=r"takes float32 images of shape \('batch', 3, 8, 8\), not torch\.float"):
            model(images)
