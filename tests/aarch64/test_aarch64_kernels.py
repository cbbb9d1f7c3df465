"""The C kernels of training on AArch64: every call of a training step gives what it gave on this machine.

There the kernels are compared with PyTorch (tests/library/test_fused.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulation import CrossCompiler, Emulator
from torch import Tensor

from condensenet import CondenseNet, ModelConfig
from condensenet.models import kernels

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the training kernels are not compiled here")
FUNCTIONS = {
    "pointwise",
    "pointwise_backward",
    "row_statistics",
    "standardise",
    "norm_backward",
    "feature_gradient",
    "average_pool",
    "average_pool_backward",
    "conv3x3",
    "conv3x3_backward",
}
TOLERANCE = 1e-5  # of the largest number of an array: sums have another order


class Recorder:
    """What the kernels were called with, and what they left in their arrays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.before: dict[str, np.ndarray] = {}
        self.after: dict[str, np.ndarray] = {}
        self._tensors: dict[int, Tensor] = {}
        self._call, self._address = kernels._call, kernels._address
        monkeypatch.setattr(kernels, "_call", self.call)
        monkeypatch.setattr(kernels, "_address", self.address)

    def address(self, tensor: Tensor) -> Any:
        self._tensors[tensor.data_ptr()] = tensor
        return self._address(tensor)

    def call(self, name: str, *arguments: Any) -> None:
        tensors: dict[str, Tensor] = {}

        def noted(value: Any) -> Any:
            if isinstance(value, int):
                return value
            if isinstance(value, Tensor):
                key = f"{len(self.calls)}-{len(tensors)}"
                tensors[key] = value
                return key
            fields = value._obj  # a structure of pointers by reference
            return [noted(self._tensors[getattr(fields, field)]) for field, _ in fields._fields_]

        self.calls.append((name, [noted(value) for value in arguments]))
        self.before |= {key: tensor.detach().numpy().copy() for key, tensor in tensors.items()}
        self._call(name, *arguments)
        self.after |= {key: tensor.detach().numpy().copy() for key, tensor in tensors.items()}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("groups_1x1", "groups_3x3", "size"), [(4, 4, (13, 13)), (2, 8, (10, 6))])
def test_every_kernel_of_a_training_step_computes_the_same(
    groups_1x1: int,
    groups_3x3: int,
    size: tuple[int, int],
    emulated: Emulator,
    cross_compiler: CrossCompiler,
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        block_depths=(2, 2), growth_rates=(8, 16), groups_1x1=groups_1x1, groups_3x3=groups_3x3, condensation_factor=4
    )
    model = CondenseNet(config).train()
    model.condense_to(model.num_condensing_stages)  # then the products are by groups
    recorder = Recorder(monkeypatch)
    model(torch.randn(7, 3, *size)).square().sum().backward()
    assert {name for name, _ in recorder.calls} == FUNCTIONS

    np.savez(tmp_path / "arrays.npz", **recorder.before)
    (tmp_path / "calls.json").write_text(json.dumps(recorder.calls))
    sources = sorted((checkout / "condensenet/models/kernels").glob("*.c"))
    library = cross_compiler.shared_library(sources, tmp_path / "kernels.so", "-fopenmp", '-DSOURCE_DIGEST="none"')
    emulated.python(checkout / "tests/aarch64/run_kernels.py", library, tmp_path)

    actual = np.load(tmp_path / "after.npz")
    changed = 0
    for key, expected in recorder.after.items():
        before, name = recorder.before[key], recorder.calls[int(key.partition("-")[0])][0]
        written = differ(expected, before) | differ(actual[key], before)
        if written.any():
            changed += 1
            error = np.abs(actual[key] - expected)[written].max()
            assert error <= TOLERANCE * np.abs(expected)[written].max(), (name, key)
    assert changed >= len(recorder.calls)


def differ(array: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Where a call wrote. Elsewhere may lie what memory held before, even NaN: outputs are not cleared first."""
    return (array != before) & ~(np.isnan(array) & np.isnan(before))
