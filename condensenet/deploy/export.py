"""Trained models as ONNX files, by PyTorch's exporter. ``onnx`` and ``onnxscript`` are imported only when needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from condensenet.deploy.onnx_file import INPUT, OUTPUT, import_optional, write_onnx
from condensenet.deploy.opset import DEFAULT_OPSET, check_opset
from condensenet.models.condensenet import CondenseNet
from condensenet.models.shapes import image_shape


def export_onnx(
    model: nn.Module,
    path: str | Path,
    input_size: int | tuple[int, int],
    *,
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write ``model`` in evaluation mode as one ONNX file and return its path.

    The file takes ``image`` (batch, channels, height, width), float32, and gives ``logits`` (batch, classes), with any
    batch size and a fixed ``input_size`` (height and width in pixels, one number if equal). It holds only standard
    operators, includes the weights, and has passed ``onnx.checker`` with shape inference. ``metadata`` becomes its
    metadata properties: text as it is, anything else as JSON; ``form`` is "plain" unless it says otherwise.

    The mode, device and weights of ``model`` do not change. The file is written atomically. Raises ``ValueError`` for
    an opset or a size that is not allowed, ``ImportError`` without onnx and onnxscript.
    """
    check_opset(opset)
    shape = image_shape(model, input_size)
    if isinstance(model, CondenseNet) and min(shape[1:]) < (least := model.config.min_image_size):
        raise ValueError(f"{input_size=} is not allowed: images of this network have {least} pixels a side or more")
    for package in ("onnx", "onnxscript"):
        import_optional(package, "export_onnx")
    proto = _trace(copy.deepcopy(model).cpu().float().eval(), shape, opset)
    _tidy(proto)
    return write_onnx(proto, path, {"form": "plain", **(metadata or {})})


def _trace(model: nn.Module, shape: tuple[int, int, int], opset: int) -> Any:
    """The exporter's ``ModelProto``. The example has two images: with one, the exporter would fix the batch size."""
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
    """Drop the exporter's own notes: its stack traces name folders of the exporting machine."""
    graph = proto.graph
    del graph.value_info[:]
    graph.doc_string = ""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
