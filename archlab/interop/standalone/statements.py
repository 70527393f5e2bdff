"""One statement of an export: the parts to remove from it, and the definitions that it depends on."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from archlab.config.registry import Slot, find, register, slot, slots
from archlab.errors import ArchlabError
from archlab.interop.standalone.scopes import references
from archlab.interop.standalone.source import Definition, ExternalName, Library, Module, Statement


@dataclass(frozen=True)
class Use:
    """A name in a statement, its target, and whether the target is needed when the statement is executed."""

    node: ast.expr
    target: Definition | ExternalName
    at_import: bool


@dataclass(frozen=True)
class ExportedStatement:
    """A statement to export; registrations are removed, and slots are replaced by a class or by no default."""

    statement: Statement
    registrations: list[ast.expr]
    slots: list[tuple[ast.expr, Definition | None]]
    uses: list[Use]

    def needs(self, *, at_import: bool = False) -> Iterator[Definition]:
        """Yield the definitions that it uses, or only those that it needs at import."""
        for use in self.uses:
            if isinstance(use.target, Definition) and not self.binds(use.target) and use.at_import >= at_import:
                yield use.target
        yield from (default for _, default in self.slots if default)

    def binds(self, definition: Definition) -> bool:
        """Whether the statement itself binds a definition."""
        return definition.module == self.statement.module.name and definition.name in self.statement.names


def read_statement(statement: Statement, library: Library, *, keeps_defaults: bool) -> ExportedStatement:
    """Analyze a statement; raise ArchlabError if it cannot be exported."""
    _refuse_inner_imports(statement, library)
    registrations = [d for d in statement.decorators if _calls(d, (register,), statement.module, library)]
    declared = [d for d in statement.keyword_defaults if _calls(d, (slot, slots), statement.module, library)]
    replaced = [(slot, _default_class(slot) if keeps_defaults else None) for slot in declared]
    uses = _uses(statement.node, {*registrations, *declared}, statement.module, library)
    return ExportedStatement(statement, registrations, replaced, uses)


def _uses(node: ast.AST, dropped: set[ast.AST], module: Module, library: Library) -> list[Use]:
    resolved = [(library.resolve(module, r), r.at_import) for r in references(node, frozenset(dropped))]
    return [Use(*node_and_target, at_import) for node_and_target, at_import in resolved if node_and_target]


def _calls(node: ast.expr, functions: tuple[Callable[..., Any], ...], module: Module, library: Library) -> bool:
    targets = [definition_of(function) for function in functions]
    return isinstance(node, ast.Call) and any(use.target in targets for use in _uses(node.func, set(), module, library))


def _default_class(call: ast.expr) -> Definition | None:
    assert isinstance(call, ast.Call)
    keywords: dict[str, Any] = {
        keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg
    }
    slot = Slot(*map(ast.literal_eval, call.args), **{"default": None} | keywords if len(call.args) == 1 else keywords)
    return definition_of(find(slot.kind, slot.default).cls) if slot.default else None


def definition_of(defined: Callable[..., Any]) -> Definition:
    """Return the definition of a class or function; raise ArchlabError unless it is at the top level of a module."""
    module, name = defined.__module__, defined.__qualname__
    if "." in name or module not in sys.modules:
        raise ArchlabError(f"{module}.{name}: only definitions at the top of a module can be exported")
    return Definition(module, name)


def _refuse_inner_imports(statement: Statement, library: Library) -> None:
    for node in statement.inner_imports:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += ["archlab" if node.level else node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(library.owns(name) for name in names):
            where = f"{statement.module.file}:{node.lineno}"
            raise ArchlabError(f"{where}: an import inside a definition cannot be exported; move it to the top")
