"""What the library needs, what importing it costs, and what it offers. Who may import whom stands in pyproject.toml."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import condensenet
import condensenet.data

ALLOWED = {"torch", "torchvision", "numpy", "condensenet", *sys.stdlib_module_names}


def _sources(checkout: Path, folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((checkout / folder).rglob("*.py")):
        yield path.relative_to(checkout), ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            yield node.module or ""


def _at_module_level(tree: ast.Module) -> Iterator[str]:
    """Imports that run when the module is imported: those in no function and not for type checkers alone."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(ast.Module([node], []))
        pending.extend(ast.iter_child_nodes(node))


def test_the_library_needs_torch_torchvision_and_numpy_alone(checkout):
    sources = list(_sources(checkout, "condensenet"))
    assert len(sources) > 10
    wrong = [
        f"{path} imports {name}"
        for path, tree in sources
        for name in _at_module_level(tree)
        if name.split(".")[0] not in ALLOWED
    ]
    assert not wrong


def test_type_checkers_are_told_of_every_public_name_and_all_can_be_had(checkout):
    tree = ast.parse((checkout / "condensenet/__init__.py").read_text())
    (type_checking,) = (node for node in tree.body if isinstance(node, ast.If))
    origins = {alias.name: node.module for node in type_checking.body for alias in node.names}
    assert sorted(origins) == condensenet.__all__
    for name, module in origins.items():
        assert getattr(condensenet, name) is getattr(importlib.import_module(module), name)
    assert set(condensenet.__all__) <= set(dir(condensenet))
    with pytest.raises(AttributeError, match="no attribute 'densenet'"):
        _ = condensenet.densenet


def test_every_public_name_of_the_data_package_is_there():
    for name in condensenet.data.__all__:
        assert getattr(condensenet.data, name) is not None


def _run(code: str, checkout: Path) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("module", ["condensenet.config", "condensenet.data.manifest", "condensenet.models.presets"])
def test_reading_configurations_does_not_wait_for_torch(module, checkout):
    assert _run(f"import sys, {module}; print('torch' in sys.modules)", checkout).strip() == "False"


@pytest.mark.slow
def test_using_the_library_imports_no_more_than_it_must(checkout):
    heavy = ["torchvision", "torch._dynamo", "onnx", "onnxruntime", "ray", "mlflow", "dvc", "prefect", "pydantic"]
    code = "import sys; from condensenet import *; model = CondenseNet(presets['condensenet-50']); "
    code += f"model.condense_to(3); count_cost(convert(model), 32); print([n for n in {heavy} if n in sys.modules])"
    assert _run(code, checkout).strip() == "[]"


def test_every_package_is_installed(checkout):
    listed = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = (
        path.parent
        for name in ("cli", "condensenet", "tasks", "flows")
        for path in (checkout / name).rglob("__init__.py")
    )
    assert sorted(listed) == sorted(".".join(folder.relative_to(checkout).parts) for folder in folders)
