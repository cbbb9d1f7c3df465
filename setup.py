"""Builds what is compiled when there is a C compiler; without one the package installs all the same.

``condensenet.models.kernels`` for training and ``condensenet.deploy.native`` for ONNX Runtime. With
``CONDENSENET_KERNELS=off`` nothing is compiled: the wheel then fits every machine. All else about the package stands in
pyproject.toml.
"""

import hashlib
import os
from pathlib import Path

from setuptools import Extension, setup

FLAGS = [
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",  # vectors are passed to inlined functions alone
]


def compiled(module: str, *flags: str) -> Extension:
    """``module`` from all C files of its folder; it knows the digest of its sources (condensenet/compiled.py)."""
    folder = Path(*module.split(".")[:-1])
    sources = sorted(folder.glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return Extension(
        module,
        [str(path) for path in sources if path.suffix == ".c"],
        depends=[str(path) for path in sources],
        define_macros=[("SOURCE_DIGEST", f'"{digest}"')],
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=[flag for flag in flags if flag == "-fopenmp"],
        optional=True,
    )


wanted = os.environ.get("CONDENSENET_KERNELS") != "off"
modules = [
    compiled("condensenet.models.kernels._compiled", "-fopenmp"),
    compiled("condensenet.deploy.native._operators", "-fvisibility=hidden"),
]
setup(ext_modules=modules if wanted else [])
