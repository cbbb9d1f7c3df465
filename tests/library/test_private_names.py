"""Our tools are used through their public names alone: their next version may rename the others."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = {"dvc", "mlflow", "onnxruntime", "prefect", "ray", "torch", "torchvision"}
FOLDERS = ("benchmarks", "cli", "cluster", "condensenet", "flows", "tasks")
STANDARD_LIBRARY = {"_asdict", "_exit", "_fields", "_name", "_replace"}  # of named tuples, os and ctypes

# What PyTorch has no public name for, each with a test of what it is for.
OF_PYTORCH = {
    # the operators of which a traced graph consists
    "condensenet/deploy/cost.py: aten._adaptive_avg_pool2d",
    "condensenet/deploy/cost.py: aten._native_batch_norm_legit_no_training",
    "condensenet/deploy/cost.py: aten._reshape_alias",
    "condensenet/deploy/cost.py: aten._to_copy",
    "condensenet/deploy/cost.py: aten._unsafe_view",
    # documented under this name
    "condensenet/deploy/cost.py: torch.utils._python_dispatch.TorchDispatchMode",
    # the only file format that the authors' PyTorch 1.1 reads
    "condensenet/interop/saving.py: _use_new_zipfile_serialization",
    # whether somebody watches a layer or transforms its operations, which a fused block would hide
    "condensenet/models/fused/conditions.py: part._backward_hooks",
    "condensenet/models/fused/conditions.py: part._backward_pre_hooks",
    "condensenet/models/fused/conditions.py: part._forward_hooks",
    "condensenet/models/fused/conditions.py: part._forward_pre_hooks",
    "condensenet/models/fused/conditions.py: torch._C",
    "condensenet/models/fused/conditions.py: torch._C._are_functorch_transforms_active",
    "condensenet/models/fused/conditions.py: torch._C._len_torch_dispatch_stack",
    "condensenet/models/fused/conditions.py: torch.autograd.forward_ad._current_level",
    "condensenet/models/fused/conditions.py: torch.nn.modules.module._has_any_global_hook",
    "condensenet/models/layers.py: norm._backward_hooks",
    "condensenet/models/layers.py: norm._backward_pre_hooks",
    "condensenet/models/layers.py: torch.nn.modules.module._has_any_global_hook",
    # one launch for all tensors, as in torch.optim
    "condensenet/training/cuda_graph.py: torch._foreach_add_",
    "condensenet/training/distributed.py: torch._foreach_copy_",
}


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def of_a_tool(module: str) -> bool:
    return module.split(".")[0] in TOOLS


@functools.cache
def parsed(folder: Path) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in folder.rglob("*.py")}


def private_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if of_a_tool(name) and is_private(name))


def own_names(trees: list[ast.Module]) -> set[str]:
    """Names that our own code defines: functions, classes, variables and attributes of ``self``."""
    names = set(STANDARD_LIBRARY)
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def private_attributes(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Private attributes and keyword arguments that are not ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            yield from (word.arg for word in node.keywords if word.arg and is_private(word.arg) and word.arg not in own)


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_public_names_of_the_tools(checkout: Path, folder: str) -> None:
    own = own_names([tree for name in FOLDERS for tree in parsed(checkout / name).values()])
    found = {
        f"{path.relative_to(checkout)}: {name}"
        for path, tree in parsed(checkout / folder).items()
        for name in (*private_imports(tree), *private_attributes(tree, own))
    }
    assert found == (OF_PYTORCH if folder == "condensenet" else set())


@pytest.mark.parametrize(
    "line",
    [
        "from ray.train.v2._internal import constants",
        "from prefect.settings import _models",
        "import mlflow._internal",
        "ray._private.utils.set_sigterm_handler(None)",
        "run.data._metric_objs",
        "ray.init(_temp_dir='here')",
    ],
)
def test_a_private_name_is_found(line: str) -> None:
    tree = ast.parse(line)
    assert [*private_imports(tree), *private_attributes(tree, own_names([]))]
