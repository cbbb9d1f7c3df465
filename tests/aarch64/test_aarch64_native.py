"""Our operators for ONNX Runtime on AArch64: compiled for it, registered by the package itself, the same logits."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from emulation import CrossCompiler, Emulator
from networks_aarch64 import NETWORKS, assert_equal_logits, write_references

from condensenet.deploy.native.writing import write_native


@pytest.fixture(scope="module")
def package(cross_compiler: CrossCompiler, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its build on an AArch64 machine would leave it."""
    folder = tmp_path_factory.mktemp("package")
    unwanted = shutil.ignore_patterns("*.so", "__pycache__")
    native = shutil.copytree(checkout / "condensenet", folder / "condensenet", ignore=unwanted) / "deploy/native"
    sources = [*sorted(native.glob("*.[ch]")), *sorted((folder / "condensenet/simd").glob("*.h"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    library = native / "_operators.so"  # the name for any version of Python
    cross_compiler.shared_library(
        sorted(native.glob("*.c")), library, "-fvisibility=hidden", f'-DSOURCE_DIGEST="{digest}"'
    )
    library.write_bytes(library.read_bytes() + hashlib.sha256(library.read_bytes()).digest())  # as setup.py seals it
    return folder


@pytest.fixture(scope="module")
def folder(emulated: Emulator, package: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    for name, grouped, size in write_references(folder):
        write_native(grouped, folder / f"{name}.native.onnx", size)
    emulated.python(checkout / "tests/aarch64/run_onnx.py", folder, path=[package])
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_the_operators_compute_what_pytorch_computes(folder: Path, name: str) -> None:
    assert_equal_logits(folder, name, "native")


def test_without_the_library_the_file_is_refused_in_one_line(emulated: Emulator, folder: Path, checkout: Path) -> None:
    code = "import sys; from condensenet.deploy.runtime import open_session\ntry: open_session(sys.argv[1])\n"
    code += "except ValueError as error: print(error)"
    message = emulated.python("-c", code, next(folder.glob("*.native.onnx")), path=[checkout])
    assert message.count("\n") == 1
    assert "native" in message
