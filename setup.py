"""Builds the compiled CPU kernels when there is a C compiler; without one the package installs all the same.

All else about the package stands in pyproject.toml.
"""

import hashlib
from pathlib import Path

from setuptools import Extension, setup

SOURCE = "condensenet/kernels/dense_block.c"
digest = hashlib.sha256((Path(__file__).parent / SOURCE).read_bytes()).hexdigest()

setup(
    ext_modules=[
        Extension(
            "condensenet.kernels._dense_block",
            [SOURCE],
            define_macros=[("SOURCE_DIGEST", f'"{digest}"')],
            extra_compile_args=[
                "-O3",
                "-fopenmp",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-Wno-psabi",
            ],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ]
)
