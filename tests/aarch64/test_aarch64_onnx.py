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
from condensenet.deploy.lowering.reading import read_network
from condensenet.deploy.lowering.workloads import valid_variants, workloads
from condensenet.deploy.runtime import versions


def write_forms(model: CondenseNet, folder: Path, name: str, size: tuple[int, int]) -> None:
    """``<name>.<form>.onnx``: plain, portable, and each variant of the lowering wherever it is valid."""
    export_onnx(model, folder / f"{name}.plain.onnx", size)
    plan = portable_plan(model, size)
    lower(model, folder / f"{name}.portable.onnx", size, plan=plan)
    valid = {name: valid_variants(workload) for name, workload in workloads(read_network(model))}
    for number, variant in enumerate(sorted({variant for variants in valid.values() for variant in variants})):
        variants = {name: variant if variant in allowed else allowed[0] for name, allowed in valid.items()}
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


def test_the_reference_model_is_written_and_read_there_too(emulated: Emulator, checkout: Path, tmp_path: Path) -> None:
    here = write_mobilenet_v1(tmp_path / "here.onnx", (1, 8, 8), 10).read_bytes()
    code = "import sys; from condensenet.deploy import runtime; from condensenet.deploy.latency import measure; "
    code += "from condensenet.deploy.latency.mobilenet import write_mobilenet_v1 as write; "
    code += "print(measure.input_shape(write(sys.argv[1], (1, 8, 8), 10)), runtime.versions())"
    output = emulated.python("-c", code, tmp_path / "there.onnx", path=[checkout])
    assert output.startswith("(1, 8, 8)")
    assert versions()["onnxruntime"] in output
    assert len((tmp_path / "there.onnx").read_bytes()) == len(here)
