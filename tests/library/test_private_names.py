"""Our tools are used through their public names alone: their next version may rename the others."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = {"dvc", "mlflow", "onnxruntime", "prefect", "ray"}
FOLDERS = ("benchmarks", "cli", "cluster", "condensenet", "flows", "tasks")
STANDARD_LIBRARY = {"_asdict", "_exit", "_fields", "_name", "_replace"}  # of named tuples, os and ctypes


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


def torchs(name: str) -> bool:
    """Of PyTorch, which has no public name for some operators and hooks; a test of the layer that uses one says so."""
    parts = name.split(".")
    return parts[0] in ("aten", "torch") or parts[-1].endswith("_hooks") or name == "_use_new_zipfile_serialization"


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_public_names_of_the_tools(checkout: Path, folder: str) -> None:
    own = own_names([tree for name in FOLDERS for tree in parsed(checkout / name).values()])
    allowed = torchs if folder == "condensenet" else lambda name: name.startswith("torch._foreach_")
    found = {
        str(path): names
        for path, tree in parsed(checkout / folder).items()
        if (names := [*private_imports(tree), *(n for n in private_attributes(tree, own) if not allowed(n))])
    }
    assert found == {}


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
