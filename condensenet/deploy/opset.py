"""The ONNX opset that files are written in."""

from __future__ import annotations

DEFAULT_OPSET, OPSETS = 18, range(18, 26)


def check_opset(opset: int) -> None:
    """Raise ``ValueError`` for an opset that no file is written in."""
    if opset not in OPSETS:
        raise ValueError(f"{opset=} is not allowed: {OPSETS[0]} to {OPSETS[-1]}")
