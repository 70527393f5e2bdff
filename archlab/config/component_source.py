"""A component's declaration read from its source, so that listing and checking need not import torch."""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.config.domains import Domain
from archlab.config.param_roles import Param
from archlab.config.schema import REQUIRED, Knob
from archlab.config.tensor_plan import TensorPlan

_shared: dict[str, _Source] = {}
# Modules whose import is cheap; a name from any other one is not evaluated.
_CHEAP = ("collections.abc", "math", "typing")


class UnreadableSource(Exception):
    """A declaration that cannot be read without importing it."""


@dataclass(frozen=True)
class Declaration:
    """The docstring, knobs, wiring, search domains, parameters' roles, tensor plan and carry of a class.

    `constructor_doc` is the docstring of the class that defines the constructor, which explains inherited knobs.
    """

    doc: str
    constructor_doc: str
    knobs: dict[str, Knob]
    wiring: tuple[str, ...]
    search: Mapping[str, Domain]
    params: Mapping[str, Param]
    tensor: TensorPlan | None
    carry: Any


def read_declaration(module: str, kind: str, name: str, public: Mapping[str, Any]) -> Declaration:
    """Return the declaration of the class that a module registers as `kind: name`.

    `public` are the names that declarations import from archlab. Raises UnreadableSource for source that needs more.
    """
    try:
        source = _Source(module, public)
        cls, call = source.find_class(kind, name)
        function, owner, definer = source.constructor(cls)
        words = {word.arg: source.evaluate(word.value) for word in call.keywords}
        declared = (
            words.get("search") or {},
            words.get("params") or {},
            words.get("tensor"),
            words.get("carry", "relay"),
        )
        doc, constructor_doc = (ast.get_docstring(node, clean=False) or "" for node in (cls, definer))
        if function is None:
            return Declaration(doc, constructor_doc, {}, (), *declared)
        return Declaration(doc, constructor_doc, owner.knobs(function), _wiring(function), *declared)
    except UnreadableSource:
        raise
    except Exception as error:
        raise UnreadableSource(f"{module}: {error}") from error


def _wiring(function: ast.FunctionDef) -> tuple[str, ...]:
    return tuple(argument.arg for argument in function.args.args if argument.arg != "self")


def _parse(module: str) -> ast.Module:
    top, _, below = module.partition(".")
    package, inner = importlib.import_module(top), below.split(".")
    if inner[0] == "components":  # which an installation may keep in another place than archlab
        package, inner = importlib.import_module(f"{top}.components"), inner[1:]
    path = Path(package.__path__[0]).joinpath(*inner)
    return ast.parse(path.with_suffix(".py").read_text(encoding="utf-8"))


class _Source:
    """The top level of a module, whose names are evaluated when they are needed."""

    def __init__(self, module: str, public: Mapping[str, Any]) -> None:
        self.public, self.values = public, dict[str, Any]()
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        for node in _parse(module).body:
            self.definitions.update(dict.fromkeys(_defined_names(node), node))
            if isinstance(node, ast.ImportFrom):
                origin = _absolute(node, module)
                self.imports.update({alias.asname or alias.name: (origin, alias.name) for alias in node.names})

    def other(self, module: str) -> _Source:
        """Return the source of another module, read once: bases and aliases are shared by many components."""
        if module not in _shared:
            _shared[module] = _Source(module, self.public)
        return _shared[module]

    def find_class(self, kind: str, name: str) -> tuple[ast.ClassDef, ast.Call]:
        """Return the class that is registered as a component, and the call that registers it."""
        for node in self.definitions.values():
            for call in node.decorator_list if isinstance(node, ast.ClassDef) else []:
                if isinstance(call, ast.Call) and [getattr(a, "value", None) for a in call.args] == [kind, name]:
                    return node, call  # type: ignore[return-value]
        raise UnreadableSource(f"no {kind} {name!r}")

    def constructor(self, cls: ast.ClassDef) -> tuple[ast.FunctionDef | None, _Source, ast.ClassDef]:
        """Return a class's own or inherited constructor, its module's source, and the class that defines it.

        The constructor is None where another library defines it.
        """
        for node in cls.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return node, self, cls
        for base in cls.bases:
            inherited = self._base_constructor(base)
            if inherited is not None and inherited[0] is not None:
                return inherited
        return None, self, cls

    def _base_constructor(self, base: ast.expr) -> tuple[ast.FunctionDef | None, _Source, ast.ClassDef] | None:
        name = base.id if isinstance(base, ast.Name) else ""
        node = self.definitions.get(name)
        if isinstance(node, ast.ClassDef):
            return self.constructor(node)
        module, original = self.imports.get(name, ("", ""))
        if not module.startswith("archlab."):
            return None
        return self.other(module)._base_constructor(ast.Name(original))

    def knobs(self, function: ast.FunctionDef) -> dict[str, Knob]:
        """Return the keyword-only parameters of a function."""
        arguments = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        return {argument.arg: self._knob(argument, default) for argument, default in arguments}

    def _knob(self, argument: ast.arg, default: ast.expr | None) -> Knob:
        if argument.annotation is None:
            raise UnreadableSource(f"{argument.arg} has no type")
        value = REQUIRED if default is None else self.evaluate(default)
        return Knob(argument.arg, self.evaluate(argument.annotation), value)

    def evaluate(self, expression: ast.expr) -> Any:
        """Return the value of an expression in this module."""
        if isinstance(expression, ast.Constant):
            return expression.value
        if isinstance(expression, ast.Name) and not hasattr(builtins, expression.id):
            return self.value(expression.id)
        code = compile(ast.fix_missing_locations(ast.Expression(expression)), "<declaration>", "eval")
        return eval(code, {"__builtins__": builtins}, _Names(self))

    def value(self, name: str) -> Any:
        """Return the value of a top-level name; raise KeyError for one that is not defined here."""
        if name not in self.values:
            self.values[name] = self._value(name)
        return self.values[name]

    def _value(self, name: str) -> Any:
        if name in self.imports:
            return self._import(*self.imports[name])
        node = self.definitions[name]
        if isinstance(node, ast.Import):
            return importlib.import_module(name) if name in _CHEAP else _refuse(name)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            return self.evaluate(node.value)
        return _refuse(name)

    def _import(self, module: str, name: str) -> Any:
        if module in _CHEAP:
            return getattr(importlib.import_module(module), name)
        if module == "archlab" and name in self.public:
            return self.public[name]
        return self.other(module).value(name) if module.startswith("archlab.") else _refuse(name)


class _Names(dict[str, Any]):
    """The names of a module as the local variables of an expression."""

    def __init__(self, source: _Source) -> None:
        super().__init__()
        self.source = source

    def __missing__(self, name: str) -> Any:
        return self.source.value(name)


def _refuse(name: str) -> Any:
    raise UnreadableSource(f"{name} is not a plain value")


def _absolute(node: ast.ImportFrom, module: str) -> str:
    package = module.split(".")[: -node.level] if node.level else []
    return ".".join([*package, *([node.module] if node.module else [])])


def _defined_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Import):
        return [alias.asname or alias.name for alias in node.names]
    return []
