"""Classes and all that their modules define for them, as the text of one module."""

from __future__ import annotations

import ast
import builtins
import keyword
import sys
from collections.abc import Iterable, Iterator

from archlab.errors import ArchlabError
from archlab.registry import Slot, find
from archlab.source import Definition, External, Library, Module, Statement

_REPLACED = {
    "archlab.registry.Factory": External("collections.abc.Callable", "Callable"),
    **{f"archlab.domains.{name}": External("builtins.int", "int") for name in ("Count", "Index")},
    **{
        f"archlab.domains.{name}": External("builtins.float", "float")
        for name in ("Positive", "NonNegative", "Fraction")
    },
}
_SLOTS = {Definition("archlab.registry", "slot"): False, Definition("archlab.registry", "slots"): True}
_REGISTER = Definition("archlab.registry", "register")


class Bundle:
    """Gathers definitions, gives each a name of its own, and writes them in an order that can be imported.

    Knobs lose what only YAML needs: their ranges become plain numbers, and their slots' defaults vanish, unless
    code builds the class without naming them. Two definitions of one name are told apart by their module's name.
    """

    def __init__(self, classes: Iterable[type], reserved: Iterable[str] = ()) -> None:
        classes = list(classes)
        packages = {"archlab"} | {cls.__module__.partition(".")[0] for cls in classes}
        self.library = Library(packages, _REPLACED)
        self.names: dict[Definition | External, str] = {}
        self.taken = {*reserved, *dir(builtins), *keyword.kwlist}
        self.built: set[Definition] = set()
        self.statements: dict[Statement, None] = {}
        for cls in classes:
            self._gather(definition_of(cls))
        self._name_all()

    def name(self, target: Definition | External) -> str:
        """Return what a thing is called in the bundle."""
        if target not in self.names:
            self.names[target] = self._free_name(target)
        return self.names[target]

    def _free_name(self, target: Definition | External) -> str:
        if isinstance(target, External):
            wanted, module = target.alias, target.dotted.rpartition(".")[0]
            if module == "builtins":
                return wanted
        else:
            wanted, module = target.name, target.module
        if wanted in self.taken:
            wanted = f"{_private(wanted)}{module.rpartition('.')[2].strip('_')}_{wanted.strip('_')}"
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted

    def _gather(self, definition: Definition, *, built: bool = False) -> None:
        again = built and definition not in self.built
        if again:
            self.built.add(definition)
        statements = self.library.module(definition.module).defining(definition.name)
        for statement in statements:
            if statement not in self.statements or again:
                self._include(statement)

    def _include(self, statement: Statement) -> None:
        _refuse_inner_imports(statement, self.library)
        statement.dropped = {*self._registrations(statement), *(d for d, _ in self.slots(statement))}
        self.statements[statement] = None
        for target in self._targets(statement):
            self._gather(target, built=True)
        for follower in statement.module.statements:
            if follower.follows in statement.names and follower not in self.statements:
                self._include(follower)

    def _targets(self, statement: Statement, *, at_import: bool = False) -> Iterator[Definition]:
        for reference in statement.references:
            found = self.library.resolve(statement.module, reference)
            own = found and isinstance(found[1], Definition) and not self._binds(statement, found[1])
            if found and own and (reference.at_import or not at_import):
                yield found[1]  # type: ignore[misc]
        yield from (default for _, default in self.slots(statement) if default)

    @staticmethod
    def _binds(statement: Statement, definition: Definition) -> bool:
        return definition.module == statement.module.name and definition.name in statement.names

    def _is(self, module: Module, node: ast.AST, wanted: Iterable[Definition]) -> Definition | None:
        if not isinstance(node, ast.Call):
            return None
        for reference in Statement(module, ast.Expr(node.func)).references:
            found = self.library.resolve(module, reference)
            if found and found[1] in wanted:
                return found[1]  # type: ignore[return-value]
        return None

    def _registrations(self, statement: Statement) -> list[ast.expr]:
        decorators = getattr(statement.node, "decorator_list", [])
        return [node for node in decorators if self._is(statement.module, node, [_REGISTER])]

    def slots(self, statement: Statement) -> list[tuple[ast.expr, Definition | None]]:
        """Return the defaults of a class's knobs that are slots, with the classes that they stay to stand for."""
        keeps = any(Definition(statement.module.name, name) in self.built for name in statement.names)
        found = []
        for node in ast.walk(statement.node):
            defaults = node.kw_defaults if isinstance(node, ast.arguments) else []
            for default in filter(None, defaults):
                kind = self._is(statement.module, default, _SLOTS)
                if kind is not None:
                    found.append((default, _default_class(default) if keeps and not _SLOTS[kind] else None))
        return found

    def _name_all(self) -> None:
        for statement in self.ordered():
            for name in sorted(statement.names):
                self.name(Definition(statement.module.name, name))
        for external in self.externals():
            self.name(external)

    def externals(self) -> list[External]:
        """Return what the definitions use from outside."""
        found = {}
        for statement in self.statements:
            for reference in statement.references:
                resolved = self.library.resolve(statement.module, reference)
                if resolved and isinstance(resolved[1], External):
                    found[resolved[1]] = None
        return list(found)

    def submodules(self) -> set[str]:
        """Return the modules that are imported for the attributes they add, as `import torch.utils.data` does."""
        used = {(s.module, external.alias) for s in self.statements for external in self.externals()}
        return {name for module, alias in used for name in module.submodules.get(alias, ())}

    def ordered(self) -> list[Statement]:
        """Return the statements as their modules would run them, each after those that it needs to run."""
        modules = {module: None for s in self.statements for module in self._below(s.module, set())}
        plain = [s for module in modules for s in module.statements if s in self.statements]
        done: dict[Statement, None] = {}
        for statement in plain:
            self._place(statement, done, ())
        return list(done)

    def _below(self, module: Module, seen: set[str]) -> Iterator[Module]:
        seen.add(module.name)
        for imported in module.imports.values():
            source = self.library.modules.get(imported.module)
            if source is not None and source.name not in seen:
                yield from self._below(source, seen)
        yield module

    def _place(self, statement: Statement, done: dict[Statement, None], above: tuple[Statement, ...]) -> None:
        if statement in done or statement in above:
            return
        for target in self._targets(statement, at_import=True):
            for needed in self.library.module(target.module).defining(target.name):
                if needed in self.statements:
                    self._place(needed, done, (*above, statement))
        done[statement] = None


def definition_of(cls: type) -> Definition:
    """Return where a class is defined; raise ArchlabError if that is not the top of a module."""
    if cls.__qualname__ != cls.__name__ or cls.__module__ not in sys.modules:
        raise ArchlabError(f"{cls.__module__}.{cls.__qualname__}: only a class at the top of a module can be exported")
    return Definition(cls.__module__, cls.__name__)


def _default_class(default: ast.expr) -> Definition | None:
    assert isinstance(default, ast.Call)
    slot = Slot(*(ast.literal_eval(argument) for argument in default.args), **_keywords(default))
    return definition_of(find(slot.kind, slot.default).cls) if slot.default else None


def _keywords(call: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}


def _private(name: str) -> str:
    return "_" if name.startswith("_") else ""


def _refuse_inner_imports(statement: Statement, library: Library) -> None:
    for node in ast.walk(statement.node):
        relative = isinstance(node, ast.ImportFrom) and (node.level or library.owns(node.module or ""))
        absolute = isinstance(node, ast.Import) and any(library.owns(alias.name) for alias in node.names)
        if relative or absolute:
            where = f"{statement.module.file}:{node.lineno}"  # type: ignore[attr-defined]
            raise ArchlabError(f"{where}: an import inside a definition cannot be exported; move it to the top")
