"""Private APIs of torch and Optuna are used in one module only."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = "archlab/runtime/private_apis.py"
LIBRARIES = ("torch", "optuna")
PUBLIC = {"_asdict", "_fields", "_replace", "_exit"}  # of a named tuple, and of os
_PRIVATE_PATH = re.compile(rf"^(?:{'|'.join(LIBRARIES)})(?:\.\w+)*\._[a-z]")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def sources() -> dict[str, ast.Module]:
    files = [file for top in ("archlab", "components", "benchmarks") for file in sorted((ROOT / top).rglob("*.py"))]
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text(), str(file)) for file in files}


def own_names(trees: dict[str, ast.Module]) -> set[str]:
    """Return every name that archlab's code binds: functions, classes, variables, attributes, modules."""
    names = {Path(file).stem for file in trees}
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def library_names(tree: ast.Module) -> set[str]:
    """Return the names in a module that mean torch, Optuna, or something imported from them."""
    names = set(LIBRARIES)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES and not node.level:
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(a.asname for a in node.names if a.asname and a.name.partition(".")[0] in LIBRARIES)
    return names


def private_uses(tree: ast.Module, own: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and text of each private API: imported, an attribute, or named in a string."""
    libraries = library_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in PUBLIC:
            text = ast.unparse(node)
            if text.partition(".")[0] in libraries or node.attr not in own:
                yield node.lineno, text
            continue
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _PRIVATE_PATH.match(node.value):
            yield node.lineno, node.value
            continue
        else:
            continue
        for path in paths:
            first, *rest = path.split(".")
            if first in LIBRARIES and any(map(is_private, rest)):
                yield node.lineno, path


@pytest.mark.slow
def test_one_module_uses_private_apis() -> None:
    trees = sources()
    own = own_names(trees)
    found = [
        f"{file}:{line}: {use}"
        for file, tree in trees.items()
        if file != MODULE
        for line, use in private_uses(tree, own)
    ]
    assert not found, f"give these a function in {MODULE}, or use a public API:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "import torch._dynamo",
        "from torch._inductor import config",
        "from torch.utils import _pytree",
        "import torch as t\nt._C",
        "from optuna import pruners as p\np._filter_study",
        "import torch\ntorch.ops.aten._to_copy.default",
        "study._storage",
        "tensor.untyped_storage()._cdata",
        "NAME = 'torch.amp.autocast_mode._enter_autocast'",
    ],
)
def test_a_private_api_is_found(code: str) -> None:
    assert list(private_uses(ast.parse(code), set()))


def test_names_of_our_own_are_not_found() -> None:
    code = "from archlab._a import _b\nfrom ._c import d\nself._e\nstate._asdict()\n'a torch._x of its own'"
    assert not list(private_uses(ast.parse(code), {"_e"}))
