"""Builds the C extensions if there is a compiler; the package installs without them too.

They are ``condensenet.models.kernels`` for training and ``condensenet.deploy.native`` for ONNX Runtime. With
``CONDENSENET_KERNELS=off`` nothing is compiled, and the wheel fits every machine. All other metadata is in
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
    "-Wno-psabi",  # vectors are passed only to inlined functions
]


def extension(module: str, *flags: str) -> Extension:
    """``module`` from all C files of its folder, with their digest compiled in (condensenet/compiled.py)."""
    folder = Path(*module.split(".")[:-1])
    sources = sorted(folder.glob("*.[ch]")) + sorted(Path("condensenet/simd").glob("*.h"))
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


extensions = [
    extension("condensenet.models.kernels._compiled", "-fopenmp"),
    extension("condensenet.deploy.native._operators", "-fvisibility=hidden"),
]
setup(ext_modules=[] if os.environ.get("CONDENSENET_KERNELS") == "off" else extensions)
