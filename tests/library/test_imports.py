"""What importing costs: reading configurations and manifests must not wait for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import condensenet
import condensenet.data


@pytest.mark.parametrize("module", ["condensenet.config", "condensenet.data.manifest", "condensenet.models.presets"])
def test_torch_is_not_imported_for(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("package", [condensenet, condensenet.data])
def test_every_public_name_is_there(package):
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_convert_is_the_function_also_after_its_module_was_imported():
    code = "import condensenet.convert, condensenet; from condensenet import convert; "
    code += "assert callable(convert) and condensenet.convert is convert"
    subprocess.run([sys.executable, "-c", code], check=True)
