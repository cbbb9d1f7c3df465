"""The emulated AArch64 machine, made once; where it cannot be made, the tests that need it are skipped."""

from __future__ import annotations

import emulation
import pytest


@pytest.fixture(scope="session")
def emulated() -> emulation.Emulator:
    try:
        return emulation.emulator(emulation.cache())
    except emulation.Unavailable as error:
        pytest.skip(f"AArch64 cannot be emulated here: {error}")


@pytest.fixture(scope="session")
def cross_compiler() -> emulation.CrossCompiler:
    try:
        return emulation.cross_compiler(emulation.cache())
    except emulation.Unavailable as error:
        pytest.skip(f"there is no compiler for AArch64 here: {error}")
