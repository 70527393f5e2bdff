"""Python modules as source text: their statements, their imports, and the targets of their names."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.util import find_spec, resolve_name
from pathlib import Path

from archlab.errors import ArchlabError
from archlab.interop.standalone.scopes import Reference, bound_names


@dataclass(frozen=True)
class ExternalName:
    """A name imported from another package: `from torch import nn` is ExternalName("torch.nn", "nn")."""

    dotted: str
    alias: str


@dataclass(frozen=True)
class Definition:
    """A name that a module's own statements bind."""

    module: str
    name: str


@dataclass(frozen=True)
class ImportedName:
    """A module, or one of its names, as an import statement refers to it."""

    module: str
    name: str | None = None


@dataclass(eq=False)
class Statement:
    """A statement at the top level of a module."""

    module: Module
    node: ast.stmt

    @cached_property
    def names(self) -> set[str]:
        """The names that it binds."""
        return bound_names([self.node])

    @cached_property
    def inner_imports(self) -> list[ast.Import | ast.ImportFrom]:
        """The import statements within it."""
        return [node for node in ast.walk(self.node) if isinstance(node, ast.Import | ast.ImportFrom)]

    @cached_property
    def keyword_defaults(self) -> list[ast.expr]:
        """The defaults of the keyword-only parameters of its functions."""
        signatures = [node for node in ast.walk(self.node) if isinstance(node, ast.arguments)]
        return [default for signature in signatures for default in signature.kw_defaults if default is not None]

    @property
    def decorators(self) -> list[ast.expr]:
        """The decorators of a class or function."""
        return getattr(self.node, "decorator_list", [])

    @cached_property
    def follows(self) -> str | None:
        """The name that the statement modifies or registers something with, such as `op` in `op.register_fake(...)`.

        Such a statement binds no name of its own, and has to be exported together with the definition of that name.
        """
        node = self.node
        if isinstance(node, ast.FunctionDef):
            called = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
            return next((_root(d) for d in called if isinstance(d, ast.Attribute)), None)
        if isinstance(node, ast.Assign) and not self.names:
            return _root(node.targets[0])
        return _root(node.value) if isinstance(node, ast.Expr) else None


def _root(node: ast.expr) -> str | None:
    below = node
    while isinstance(below, ast.Attribute | ast.Call | ast.Subscript):
        below = below.func if isinstance(below, ast.Call) else below.value
    return below.id if isinstance(below, ast.Name) and below is not node else None


class Module:
    """The source text of a module, its statements and its imports."""

    def __init__(self, name: str, file: Path, data: bytes) -> None:
        self.name, self.file, self.data = name, file, data
        self.tree = ast.parse(self.data, str(file))
        self.package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        self.imports: dict[str, ImportedName] = {}
        self.submodules: dict[str, set[str]] = {}
        self.statements = [Statement(self, node) for node in self._read(self.tree.body)]
        lines = self.data.splitlines(keepends=True)
        self.lines = [0]
        for line in lines:
            self.lines.append(self.lines[-1] + len(line))

    def _read(self, body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            if isinstance(node, ast.Import):
                self._import(node)
            elif isinstance(node, ast.ImportFrom):
                self._import_from(node)
            elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                yield from self._read(node.body)
            elif not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
                yield node

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            root = alias.name.partition(".")[0]
            self.imports[alias.asname or root] = ImportedName(alias.name if alias.asname else root)
            if not alias.asname and alias.name != root:
                self.submodules.setdefault(root, set()).add(alias.name)

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = resolve_name("." * node.level + (node.module or ""), self.package)
        for alias in node.names:
            if alias.name == "*":
                raise ArchlabError(
                    f"{self.file}:{node.lineno}: an import of * cannot be exported; import the names that are used"
                )
            self.imports[alias.asname or alias.name] = ImportedName(module, alias.name)

    def defining(self, name: str) -> list[Statement]:
        """Return the statements that bind a name."""
        return self._defining.get(name, [])

    @cached_property
    def _defining(self) -> dict[str, list[Statement]]:
        statements: dict[str, list[Statement]] = {}
        for statement in self.statements:
            for name in statement.names:
                statements.setdefault(name, []).append(statement)
        return statements

    def offset(self, line: int, column: int = 0) -> int:
        """Return the byte offset of a line, counted from 1, and a column; ast counts columns in bytes too."""
        return self.lines[line - 1] + column

    def span(self, node: ast.expr) -> tuple[int, int]:
        """Return the byte offsets of an expression's begin and end."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)


# The models of a process share most of their modules, which are read and never changed: parsing takes a third of an
# export's text. A file that was edited meanwhile has other data.
_parse = lru_cache(maxsize=256)(Module)


class Library:
    """The modules of `packages`, whose source is copied into the export; all others are imported by it."""

    def __init__(self, packages: set[str], replaced: dict[str, ExternalName]) -> None:
        self.packages, self.replaced = packages, replaced
        self.modules: dict[str, Module] = {}

    def module(self, name: str) -> Module:
        """Return a module, reading its source at the first call."""
        if name not in self.modules:
            file = getattr(sys.modules.get(name) or import_module(name), "__file__", None)
            if file is None or not file.endswith(".py"):
                raise ArchlabError(f"{name}: has no Python source to export")
            self.modules[name] = _parse(name, Path(file), Path(file).read_bytes())
        return self.modules[name]

    def owns(self, module: str) -> bool:
        """Whether a module's source is copied into the export."""
        return module.partition(".")[0] in self.packages

    def find(self, module: str, name: str) -> ExternalName | Definition | ImportedName | None:
        """Return the target of a name in a module, through all imports; None for a builtin."""
        dotted = f"{module}.{name}"
        if dotted in self.replaced:
            return self.replaced[dotted]
        source = self.module(module)
        if source.defining(name):
            return Definition(module, name)
        if name in source.imports:
            return self._follow(source.imports[name], name)
        return ImportedName(dotted) if source.file.name == "__init__.py" and find_spec(dotted) else None

    def _follow(self, imported: ImportedName, alias: str) -> ExternalName | Definition | ImportedName | None:
        if not self.owns(imported.module):
            dotted = imported.module if imported.name is None else f"{imported.module}.{imported.name}"
            return ExternalName(dotted, alias)
        return imported if imported.name is None else self.find(imported.module, imported.name)

    def resolve(self, module: Module, reference: Reference) -> tuple[ast.expr, ExternalName | Definition] | None:
        """Return the part of a dotted name that refers to a target, and the target; None for a builtin."""
        names = reference.names
        target = self.find(module.name, names[0])
        for depth, name in enumerate(names[1:], 1):
            if not isinstance(target, ImportedName):
                return None if target is None else (reference.nodes[depth - 1], target)
            target = self.find(target.module, name)
        if isinstance(target, ImportedName):
            raise ArchlabError(
                f"{module.file}:{reference.nodes[0].lineno}: a module used as a value cannot be exported"
            )
        return None if target is None else (reference.nodes[-1], target)
