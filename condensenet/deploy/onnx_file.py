"""What all ONNX files of this package have in common, in whatever form they hold a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

INPUT, OUTPUT = "image", "logits"
OPSETS = range(18, 26)


def check_opset(opset: int) -> None:
    """Raise ``ValueError`` for an opset that nothing is written in."""
    if opset not in OPSETS:
        raise ValueError(f"{opset=} is not allowed: {OPSETS[0]} to {OPSETS[-1]}")


def properties(values: Mapping[str, object]) -> dict[str, str]:
    """Metadata properties: text as it is, anything else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in values.items()
    }


def needs(module: str, purpose: str = "writing an ONNX file") -> Any:
    """The module of a package that only this purpose needs. Raises ``ImportError`` that says what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        packages = "onnx onnxscript onnxruntime"
        raise ImportError(f"{purpose} needs {module}: pip install {packages} ({error})") from error
