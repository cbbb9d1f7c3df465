"""What all ONNX files of this package share: names of input and output, metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from condensenet.files import write_atomically

INPUT, OUTPUT = "image", "logits"


def write_onnx(proto: Any, path: str | Path, metadata: Mapping[str, object], *, infer_shapes: bool = True) -> Path:
    """Write the ``ModelProto`` atomically with ``metadata`` properties, once ``onnx.checker`` has passed it."""
    onnx = import_optional("onnx")
    onnx.helper.set_model_props(proto, _properties(metadata))
    onnx.checker.check_model(proto, full_check=infer_shapes)
    write_atomically(Path(path), proto.SerializeToString(deterministic=True))
    return Path(path)


def _properties(values: Mapping[str, object]) -> dict[str, str]:
    """Metadata properties: text as it is, anything else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in values.items()
    }


def import_optional(module: str, purpose: str = "writing an ONNX file") -> Any:
    """``module``, of a package that only ``purpose`` needs. Raises an ``ImportError`` that says what to install.

    ONNX Runtime's telemetry (since 1.29) is then off in the whole process unless ``ORT_DISABLE_TELEMETRY`` is set.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported: later it has sent something
    try:
        return import_module(module)
    except ImportError as error:
        packages = "onnx onnxscript onnxruntime"
        raise ImportError(f"{purpose} needs {module}: pip install {packages} ({error})") from error
