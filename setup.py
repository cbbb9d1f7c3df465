"""Builds the C extensions if there is a compiler; the package installs without them too.

They are ``condensenet.models.kernels`` for training and ``condensenet.deploy.native`` for ONNX Runtime. With
``CONDENSENET_KERNELS=off`` nothing is compiled, and the wheel fits every machine. All other metadata is in
pyproject.toml. ``CONDENSENET_CFLAGS`` adds options of the compiler (`make fuzz` adds sanitizers). A library ends with
its own sha256: loading one that was cut off would kill the process.
"""

import hashlib
import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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
        depends=[*(str(path) for path in sources), "setup.py"],
        define_macros=[("SOURCE_DIGEST", f'"{digest}"')],
        extra_compile_args=[*FLAGS, *flags, *os.environ.get("CONDENSENET_CFLAGS", "").split()],
        extra_link_args=[flag for flag in flags if flag == "-fopenmp"],
        optional=True,
    )


def is_sealed(content: bytes) -> bool:
    return content[-32:] == hashlib.sha256(content[:-32]).digest()


class SealedBuild(build_ext):
    """Appends the sha256 of what was built, which condensenet/compiled.py checks before it loads the library."""

    def build_extension(self, ext: Extension) -> None:
        path = Path(self.get_ext_fullpath(ext.name))
        if path.exists() and not is_sealed(path.read_bytes()):  # a killed linker's: it would count as up to date
            path.unlink()
        super().build_extension(ext)
        content = path.read_bytes()
        if not is_sealed(content):
            sealed = path.with_suffix(".sealed")
            sealed.write_bytes(content + hashlib.sha256(content).digest())
            sealed.replace(path)


extensions = [
    extension("condensenet.models.kernels._compiled", "-fopenmp"),
    extension("condensenet.deploy.native._operators", "-fvisibility=hidden"),
]
setup(
    ext_modules=[] if os.environ.get("CONDENSENET_KERNELS") == "off" else extensions,
    cmdclass={"build_ext": SealedBuild},
)
