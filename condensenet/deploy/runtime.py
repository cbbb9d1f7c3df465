"""ONNX Runtime on a CPU: sessions, and the operator library that is registered with each. Nothing here imports torch.

``onnxruntime`` is imported only when a file is opened.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import numpy as np

from condensenet import compiled
from condensenet.deploy.onnx_file import import_optional
from condensenet.machine import usable_cores
from condensenet.text import message_of


@functools.cache
def operator_library() -> Path | None:
    """The custom operators that a native file needs (condensenet/deploy/native); None if they were not built."""
    library = compiled.load("condensenet.deploy.native._operators")
    return None if library is None else Path(library._name)


def open_session(model: str | Path | bytes, threads: int = 0) -> Any:
    """An ONNX Runtime session on the CPU with ``threads`` threads (0: all usable cores) that do not spin.

    ``model`` is the path or the content of a file. Raises ``ValueError`` for a file that cannot be loaded, and
    ``ImportError`` without onnxruntime.
    """
    onnxruntime = import_optional("onnxruntime", "running an ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    operators = operator_library()
    if operators is not None:
        options.register_custom_ops_library(str(operators))
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises a class of its own for each kind of bad file
        why = message_of(error)  # names of the file's own
        if "DenseBlock" in why and operators is None:
            why = "it is in native form, and the operators of condensenet.deploy.native were not built here"
        name = "a model" if isinstance(model, bytes) else model
        raise ValueError(f"{name} cannot be loaded by ONNX Runtime: {why}") from error


def versions() -> dict[str, str]:
    """The versions of the software that a latency depends on."""
    onnxruntime = import_optional("onnxruntime", "running an ONNX file")
    return {"python": platform.python_version(), "numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
