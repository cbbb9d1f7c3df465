"""setup.py: what a killed compiler has left does not count as built."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VISIBLE = '__attribute__((visibility("default")))'
FOLDERS = ("condensenet/models/kernels", "condensenet/deploy/native", "condensenet/simd")


def build(folder: Path) -> list[Path]:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env={**os.environ, "CONDENSENET_CFLAGS": "-O0"}, check=True, timeout=120)
    return sorted(folder.glob("condensenet/**/*.so"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler")
def test_a_library_that_was_cut_off_is_linked_again(checkout: Path, tmp_path: Path) -> None:
    shutil.copy(checkout / "setup.py", tmp_path)
    for number, name in enumerate(FOLDERS):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "part.c").write_text(f"{VISIBLE} int answer(void) {{ return {number}; }}\n")
    first = build(tmp_path)
    assert len(first) == 2
    for library in tmp_path.glob("build/lib*/**/*.so"):
        library.write_bytes(library.read_bytes()[:4000])
    for library, answer in zip(build(tmp_path), (1, 0), strict=True):  # deploy, models
        content = library.read_bytes()
        assert content[-32:] == hashlib.sha256(content[:-32]).digest()
        assert ctypes.CDLL(str(library)).answer() == answer
