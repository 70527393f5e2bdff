"""Classes with all definitions that they depend on, to be written as one module."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from archlab.config import domains, registry
from archlab.interop.standalone.source import Definition, ExternalName, Library, Module, Statement
from archlab.interop.standalone.statements import ExportedStatement, definition_of, read_statement

# Types of archlab's knobs, and their replacements in an export. They are aliases, which have no `__module__` to find
# them by, as a class has.
_REPLACED = {
    f"{registry.__name__}.Factory": ExternalName("collections.abc.Callable", "Callable"),
    f"{domains.__name__}.Count": ExternalName("builtins.int", "int"),
    f"{domains.__name__}.Index": ExternalName("builtins.int", "int"),
    f"{domains.__name__}.Positive": ExternalName("builtins.float", "float"),
    f"{domains.__name__}.NonNegative": ExternalName("builtins.float", "float"),
    f"{domains.__name__}.Fraction": ExternalName("builtins.float", "float"),
}


class Bundle:
    """Collects definitions, orders them so that they can be imported, and gives each a unique name.

    Declarations that only YAML needs are removed from knobs: ranges become plain numbers, and slots lose their
    defaults, unless code constructs the class without these arguments. A name that is already used is prefixed with its
    module's.
    """

    def __init__(self, classes: Sequence[type], functions: Sequence[Callable[..., Any]] = ()) -> None:
        packages = {"archlab"} | {cls.__module__.partition(".")[0] for cls in classes}
        self.library = Library(packages, _REPLACED)
        self._names: dict[Definition | ExternalName, str] = {}
        self._used_names = {*dir(builtins), *keyword.kwlist}
        self._constructed: set[Definition] = set()
        self._collected: dict[Statement, ExportedStatement] = {}
        defined = [*map(definition_of, classes), *map(definition_of, functions)]
        for definition in defined:
            self._collect(definition)
        self.statements = self._order()
        self._name_all(defined[len(classes) :])

    def name(self, target: Definition | ExternalName) -> str:
        """Return the name of a definition or an imported object in the bundle."""
        if target not in self._names:
            self._names[target] = self._free_name(target)
        return self._names[target]

    def _free_name(self, target: Definition | ExternalName) -> str:
        external = isinstance(target, ExternalName)
        name = target.alias if isinstance(target, ExternalName) else target.name
        module = target.dotted.rpartition(".")[0] if isinstance(target, ExternalName) else target.module
        if external and module == "builtins":
            return name
        if name in self._used_names:
            private = "_" if name.startswith("_") else ""
            name = f"{private}{module.rpartition('.')[2].strip('_')}_{name.strip('_')}"
        while name in self._used_names:
            name += "_"
        self._used_names.add(name)
        return name

    def _name_all(self, first: Sequence[Definition]) -> None:
        for definition in first:
            self.name(definition)
        for exported in self.statements:
            for name in sorted(exported.statement.names):
                self.name(Definition(exported.statement.module.name, name))
        for external in self.externals():
            self.name(external)

    def externals(self) -> list[ExternalName]:
        """Return the names that the definitions import from other packages."""
        uses = [use.target for exported in self.statements for use in exported.uses]
        return list(dict.fromkeys(target for target in uses if isinstance(target, ExternalName)))

    def submodules(self) -> set[str]:
        """Return the submodules imported for the attributes that they add, as by `import torch.utils.data`."""
        used = {
            (exported.statement.module, use.target.alias)
            for exported in self.statements
            for use in exported.uses
            if isinstance(use.target, ExternalName)
        }
        return {name for module, alias in used for name in module.submodules.get(alias, ())}

    def _collect(self, definition: Definition, *, constructed: bool = False) -> None:
        again = constructed and definition not in self._constructed
        if again:
            self._constructed.add(definition)
        for statement in self._defining(definition):
            if statement not in self._collected or again:
                self._include(statement)

    def _defining(self, definition: Definition) -> list[Statement]:
        return self.library.module(definition.module).defining(definition.name)

    def _include(self, statement: Statement) -> None:
        constructed = any(Definition(statement.module.name, name) in self._constructed for name in statement.names)
        exported = self._collected[statement] = read_statement(statement, self.library, keeps_defaults=constructed)
        for needed in exported.needs():
            self._collect(needed, constructed=True)
        for follower in statement.module.statements:
            if follower.follows in statement.names and follower not in self._collected:
                self._include(follower)

    def _order(self) -> list[ExportedStatement]:
        """Return the statements in the order of their modules' imports, each after those that it needs at import."""
        modules = dict.fromkeys(module for s in self._collected for module in self._dependencies_first(s.module, set()))
        done: dict[Statement, None] = {}
        for statement in [s for module in modules for s in module.statements if s in self._collected]:
            self._place(statement, done, ())
        return [self._collected[statement] for statement in done]

    def _dependencies_first(self, module: Module, seen: set[str]) -> Iterator[Module]:
        seen.add(module.name)
        for imported in module.imports.values():
            for name in (imported.module, f"{imported.module}.{imported.name}"):
                if name in self.library.modules and name not in seen:
                    yield from self._dependencies_first(self.library.modules[name], seen)
        yield module

    def _place(self, statement: Statement, done: dict[Statement, None], parents: tuple[Statement, ...]) -> None:
        # A statement among its own parents is in a cycle: no order satisfies it, so the modules' own order decides.
        if statement in done or statement in parents:
            return
        for definition in self._collected[statement].needs(at_import=True):
            for needed in self._defining(definition):
                self._place(needed, done, (*parents, statement))
        done[statement] = None
