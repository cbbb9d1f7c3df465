"""ONNX files of trained models, and the proof that they compute the same function.

``onnx`` and ``onnxscript`` are needed to write a file and ``onnxruntime`` to compare one; they are imported only
then, and their absence is an ``ImportError`` that says what to install.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condensenet.deploy.onnx_file import DEFAULT_OPSET, INPUT, OUTPUT, check_opset, import_optional, properties
from condensenet.deploy.runtime import open_session
from condensenet.files import write_atomically
from condensenet.models.shapes import image_shape

TOLERANCE = 1e-5  # of the largest logit; seen: 1e-6 for the deepest network, 3e-7 for most


def export_onnx(
    model: nn.Module,
    path: str | Path,
    input_size: int | tuple[int, int],
    *,
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write ``model`` in evaluation mode as one ONNX file and return its path.

    The file takes ``image`` (batch, channels, height, width), float32, and gives ``logits`` (batch, classes); the
    batch is free, ``input_size`` (height and width in pixels, one number if equal) is not. It holds standard
    operators only, carries its weights, and has passed ``onnx.checker`` with shape inference. ``metadata`` becomes
    its metadata properties: text as it is, anything else as JSON.

    The model itself is left alone: its mode, its device, its weights. The file appears whole or not at all.
    Raises ``ValueError`` for an opset or a size that cannot be, ``ImportError`` without onnx and onnxscript.
    """
    check_opset(opset)
    shape = image_shape(model, input_size)
    onnx = import_optional("onnx", "export_onnx")
    import_optional("onnxscript", "export_onnx")
    proto = _trace(copy.deepcopy(model).cpu().eval(), shape, opset)
    _tidy(proto)
    onnx.helper.set_model_props(proto, properties(metadata or {}))
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(Path(path), proto.SerializeToString())
    return Path(path)


def _trace(model: nn.Module, shape: tuple[int, int, int], opset: int) -> Any:
    """The exporter's ``ModelProto``. The example has two images: with one, the batch would be taken for fixed."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, *shape),),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _tidy(proto: Any) -> None:
    """Drop what the exporter notes for itself: its traces name the folders of the machine that exported."""
    graph = proto.graph
    del graph.value_info[:]
    graph.doc_string = ""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


def torch_logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Images (N, C, H, W) to logits (N, classes) by a copy of ``model`` on the CPU, in evaluation mode."""
    model = copy.deepcopy(model).cpu().eval()

    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(images)

    return logits


def onnx_logits(path: str | Path) -> Callable[[Tensor], Tensor]:
    """The same by the file at ``path``. Raises ``ValueError`` if it cannot be loaded, ``ImportError`` likewise."""
    session = open_session(path)
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


@dataclass(frozen=True)
class Difference:
    """How far apart two sets of logits are, over all images and classes.

    ``max_relative`` is max |a - b| / max |a|, both maxima over everything compared, a being PyTorch's logits:
    a share of the largest logit, so that logits near zero do not blow it up.
    """

    images: int
    max_relative: float
    max_absolute: float


def compare_onnx(
    model: nn.Module, path: str | Path, batches: Iterable[Tensor], *, tolerance: float = TOLERANCE
) -> Difference:
    """Compare every logit of ``model`` in evaluation mode with ONNX Runtime's of the file at ``path``.

    ``batches`` are images (N, C, H, W), float32. Raises ``ValueError`` with both differences if the relative one
    passes ``tolerance`` or a logit is not finite, and if there is no image; ``ImportError`` without onnxruntime.
    """
    return judge(measure_differences(model, {"": path}, batches)[""], path, tolerance)


def measure_differences(
    model: nn.Module, files: Mapping[str, str | Path], batches: Iterable[Tensor]
) -> dict[str, Difference]:
    """How far every file's logits are from ``model``'s, which are computed once for all of them. Judges nothing.

    Raises ``ValueError`` for a file that cannot be loaded, or gives logits of another shape.
    """
    expect, find = torch_logits(model), {name: onnx_logits(path) for name, path in files.items()}
    images, largest = 0, torch.tensor(0.0)
    furthest = dict.fromkeys(files, torch.tensor(0.0))
    for batch in batches:
        expected = expect(batch)
        images += len(batch)
        largest = torch.maximum(largest, expected.abs().max())  # unlike max(), it keeps a NaN
        for name, logits in find.items():
            found = logits(batch)
            if found.shape != expected.shape:
                shapes = f"shape {tuple(found.shape)}, PyTorch {tuple(expected.shape)}"
                raise ValueError(f"{files[name]} gives logits of {shapes}")
            furthest[name] = torch.maximum(furthest[name], (found - expected).abs().max())
    return {
        name: Difference(images, _ratio(value.item(), largest.item()), value.item()) for name, value in furthest.items()
    }


def _ratio(furthest: float, largest: float) -> float:
    if furthest == 0:
        return 0.0
    return furthest / largest if largest > 0 else float("inf")


def judge(difference: Difference, path: str | Path, tolerance: float = TOLERANCE) -> Difference:
    """``difference`` if it is small enough; raises ``ValueError`` as ``compare_onnx`` does."""
    if difference.images == 0:
        raise ValueError(f"{path} was compared on no image: at least one is needed")
    if not difference.max_relative <= tolerance:  # also when it is NaN
        raise ValueError(
            f"{path} differs from PyTorch: relative {difference.max_relative:.3g} of the largest logit, "
            f"absolute {difference.max_absolute:.3g}, over {difference.images} images; {tolerance=} allowed"
        )
    return difference
