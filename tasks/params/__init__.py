"""Reads and checks ``params.yaml``. Where it is composed or compared, ``tasks.plain_yaml`` parses it.

Pydantic checks keys and types. The dataclasses check values themselves: ``ModelConfig`` and ``TrainConfig`` in
``condensenet.config``, the others here.
"""

from tasks.params.names import NAME_PATTERN, NOT_NAMES
from tasks.params.reading import load, parse, read
from tasks.params.sections import (
    ENCODED,
    BenchmarkParams,
    DataParams,
    EvaluateParams,
    ExportParams,
    RayParams,
    TablesParams,
)
from tasks.params.study import Params, Setting

__all__ = [
    "ENCODED",
    "NAME_PATTERN",
    "NOT_NAMES",
    "BenchmarkParams",
    "DataParams",
    "EvaluateParams",
    "ExportParams",
    "Params",
    "RayParams",
    "Setting",
    "TablesParams",
    "load",
    "parse",
    "read",
]
