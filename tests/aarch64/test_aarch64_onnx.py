"""Exported and lowered files on AArch64: the same logits as PyTorch's of the condensed training form, computed here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from emulation import Emulator
from networks_aarch64 import NETWORKS, assert_equal_logits, write_references

from condensenet import CondenseNet, export_onnx
from condensenet.deploy.latency.mobilenet import write_mobilenet_v1
from condensenet.deploy.lowering import lower, portable_plan
from condensenet.deploy.lowering.network import read_network
from condensenet.deploy.lowering.places import choices, places
from condensenet.deploy.runtime import versions


def write_forms(model: CondenseNet, folder: Path, name: str, size: tuple[int, int]) -> None:
    """``<name>.<form>.onnx``: plain, portable, and each variant of the lowering wherever it is possible."""
    export_onnx(model, folder / f"{name}.plain.onnx", size)
    plan = portable_plan(model, size)
    lower(model, folder / f"{name}.portable.onnx", size, plan=plan)
    possible = {place: choices(what) for place, what in places(read_network(model))}
    for number, variant in enumerate(sorted({choice for names in possible.values() for choice in names})):
        variants = {place: variant if variant in names else names[0] for place, names in possible.items()}
        lower(model, folder / f"{name}.{number}.onnx", size, plan=replace(plan, variants=variants))


@pytest.fixture(scope="module")
def folder(emulated: Emulator, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<network>.npy`` with its images, ``<network>.expected.npy`` and ``<network>.<form>.logits.npy``."""
    folder = tmp_path_factory.mktemp("onnx")
    for name, grouped, size in write_references(folder):
        write_forms(grouped, folder, name, size)
    emulated.python(checkout / "tests/aarch64/run_onnx.py", folder, path=[checkout])
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_of_every_form_are_those_of_pytorch(folder: Path, name: str) -> None:
    forms = [path.name.split(".")[1] for path in folder.glob(f"{name}.*.onnx")]
    assert {"plain", "portable", "0", "1"} <= set(forms)
    for form in forms:
        assert_equal_logits(folder, name, form)


def test_the_yardstick_is_written_and_read_there_too(emulated: Emulator, checkout: Path, tmp_path: Path) -> None:
    here = write_mobilenet_v1(tmp_path / "here.onnx", (1, 8, 8), 10).read_bytes()
    code = "import sys; from condensenet import latency, yardstick; "
    code += "print(latency.input_shape(yardstick.write_mobilenet_v1(sys.argv[1], (1, 8, 8), 10)), latency.versions())"
    said = emulated.python("-c", code, tmp_path / "there.onnx", path=[checkout])
    assert said.startswith("(1, 8, 8)")
    assert versions()["onnxruntime"] in said
    assert len((tmp_path / "there.onnx").read_bytes()) == len(here)
