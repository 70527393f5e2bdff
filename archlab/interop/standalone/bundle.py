"""Classes and all that their modules define for them, to be written as one module."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from archlab.config import domains, registry
from archlab.interop.standalone.source import Definition, ExternalName, Library, Module, Statement
from archlab.interop.standalone.statements import ExportedStatement, definition_of, read_statement

# An alias has no name of its own to be found by, as a class has.
_REPLACED = {
    f"{registry.__name__}.Factory": ExternalName("collections.abc.Callable", "Callable"),
    f"{domains.__name__}.Count": ExternalName("builtins.int", "int"),
    f"{domains.__name__}.Index": ExternalName("builtins.int", "int"),
    f"{domains.__name__}.Positive": ExternalName("builtins.float", "float"),
    f"{domains.__name__}.NonNegative": ExternalName("builtins.float", "float"),
    f"{domains.__name__}.Fraction": ExternalName("builtins.float", "float"),
}


class Bundle:
    """Gathers definitions, orders them so that they can be imported, and gives each a name of its own.

    Knobs lose what only YAML needs: ranges become plain numbers, and the defaults of slots vanish, unless
    code builds the class without naming them. Two definitions of one name are told apart by their module's.
    """

    def __init__(self, classes: Sequence[type], functions: Sequence[Callable[..., Any]] = ()) -> None:
        packages = {"archlab"} | {cls.__module__.partition(".")[0] for cls in classes}
        self.library = Library(packages, _REPLACED)
        self._names: dict[Definition | ExternalName, str] = {}
        self._taken = {*dir(builtins), *keyword.kwlist}
        self._built: set[Definition] = set()
        self._gathered: dict[Statement, ExportedStatement] = {}
        defined = [*map(definition_of, classes), *map(definition_of, functions)]
        for definition in defined:
            self._gather(definition)
        self.pieces = self._ordered()
        self._name_all(defined[len(classes) :])

    def name(self, target: Definition | ExternalName) -> str:
        """Return what a thing is called in the bundle."""
        if target not in self._names:
            self._names[target] = self._free_name(target)
        return self._names[target]

    def _free_name(self, target: Definition | ExternalName) -> str:
        external = isinstance(target, ExternalName)
        name = target.alias if isinstance(target, ExternalName) else target.name
        module = target.dotted.rpartition(".")[0] if isinstance(target, ExternalName) else target.module
        if external and module == "builtins":
            return name
        if name in self._taken:
            private = "_" if name.startswith("_") else ""
            name = f"{private}{module.rpartition('.')[2].strip('_')}_{name.strip('_')}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _name_all(self, first: Sequence[Definition]) -> None:
        for definition in first:
            self.name(definition)
        for piece in self.pieces:
            for name in sorted(piece.statement.names):
                self.name(Definition(piece.statement.module.name, name))
        for external in self.externals():
            self.name(external)

    def externals(self) -> list[ExternalName]:
        """Return what the definitions use from outside."""
        uses = [use.target for piece in self.pieces for use in piece.uses]
        return list(dict.fromkeys(target for target in uses if isinstance(target, ExternalName)))

    def submodules(self) -> set[str]:
        """Return the modules that are imported for the attributes they add, as `import torch.utils.data` does."""
        used = {
            (piece.statement.module, use.target.alias)
            for piece in self.pieces
            for use in piece.uses
            if isinstance(use.target, ExternalName)
        }
        return {name for module, alias in used for name in module.submodules.get(alias, ())}

    def _gather(self, definition: Definition, *, built: bool = False) -> None:
        again = built and definition not in self._built
        if again:
            self._built.add(definition)
        for statement in self._defining(definition):
            if statement not in self._gathered or again:
                self._include(statement)

    def _defining(self, definition: Definition) -> list[Statement]:
        return self.library.module(definition.module).defining(definition.name)

    def _include(self, statement: Statement) -> None:
        built = any(Definition(statement.module.name, name) in self._built for name in statement.names)
        piece = self._gathered[statement] = read_statement(statement, self.library, keeps_defaults=built)
        for needed in piece.needs():
            self._gather(needed, built=True)
        for follower in statement.module.statements:
            if follower.follows in statement.names and follower not in self._gathered:
                self._include(follower)

    def _ordered(self) -> list[ExportedStatement]:
        """Return the pieces as their modules would run them, each after those that it needs to run."""
        modules = dict.fromkeys(module for s in self._gathered for module in self._imported_first(s.module, set()))
        done: dict[Statement, None] = {}
        for statement in [s for module in modules for s in module.statements if s in self._gathered]:
            self._place(statement, done, ())
        return [self._gathered[statement] for statement in done]

    def _imported_first(self, module: Module, seen: set[str]) -> Iterator[Module]:
        seen.add(module.name)
        for imported in module.imports.values():
            for name in (imported.module, f"{imported.module}.{imported.name}"):
                if name in self.library.modules and name not in seen:
                    yield from self._imported_first(self.library.modules[name], seen)
        yield module

    def _place(self, statement: Statement, done: dict[Statement, None], above: tuple[Statement, ...]) -> None:
        if statement in done or statement in above:
            return
        for definition in self._gathered[statement].needs(at_import=True):
            for needed in self._defining(definition):
                self._place(needed, done, (*above, statement))
        done[statement] = None
