"""Builds the compiled CPU kernels when there is a C compiler; without one the package installs all the same.

With ``CONDENSENET_KERNELS=off`` nothing is compiled: the wheel then fits every machine.
All else about the package stands in pyproject.toml.
"""

import hashlib
import os
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("condensenet/kernels")
sources = sorted(FOLDER.glob("*.[ch]"))
wanted = os.environ.get("CONDENSENET_KERNELS") != "off"
digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()

setup(
    ext_modules=[
        Extension(
            "condensenet.kernels._compiled",
            [str(path) for path in sources if path.suffix == ".c"],
            depends=[str(path) for path in sources],
            define_macros=[("SOURCE_DIGEST", f'"{digest}"')],
            extra_compile_args=[
                "-O3",
                "-fopenmp",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-Wno-psabi",  # vectors are passed to inlined functions alone
            ],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ]
    if wanted
    else []
)
