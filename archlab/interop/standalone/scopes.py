"""The names in a statement that refer to its module's scope, not to a local one."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Reference:
    """A name of the module with its attributes: `a.b.c` as the nodes of `a`, `a.b` and `a.b.c`.

    `at_import` is False in function bodies and annotations, which do not run when the module is imported.
    """

    nodes: tuple[ast.expr, ...]
    at_import: bool

    @property
    def names(self) -> list[str]:
        """The parts of the dotted name."""
        return [node.id if isinstance(node, ast.Name) else _attribute(node) for node in self.nodes]


def _attribute(node: ast.expr) -> str:
    assert isinstance(node, ast.Attribute)
    return node.attr


def bound_names(body: Iterable[ast.AST]) -> set[str]:
    """Return the names that statements bind in their own scope."""
    names: set[str] = set()
    not_local: set[str] = set()
    for node in _walk_scope(body):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            not_local.update(node.names)
    return names - not_local


def _walk_scope(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    for node in body:
        yield node
        if not isinstance(node, _SCOPES + _COMPREHENSIONS):
            yield from _walk_scope(ast.iter_child_nodes(node))


@lru_cache(maxsize=8192)  # of statements that one model after the other is written with
def references(node: ast.AST, dropped: frozenset[ast.AST]) -> tuple[Reference, ...]:
    """Return a statement's references to its module, in order, without the subtrees of `dropped`."""
    visitor = _Visitor(dropped)
    visitor.visit(node)
    return tuple(visitor.found)


class _Visitor(ast.NodeVisitor):
    def __init__(self, dropped: frozenset[ast.AST]) -> None:
        self.dropped, self.later = dropped, False
        self.found: list[Reference] = []
        self.scopes: list[tuple[bool, set[str]]] = []

    def visit(self, node: ast.AST) -> None:
        if node not in self.dropped:
            super().visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self._add((node,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain: list[ast.expr] = [node]
        while isinstance(chain[-1], ast.Attribute):
            chain.append(chain[-1].value)
        if isinstance(chain[-1], ast.Name):
            self._add(tuple(reversed(chain)))
        else:
            self.generic_visit(node)

    def _add(self, nodes: tuple[ast.expr, ...]) -> None:
        assert isinstance(nodes[0], ast.Name)
        if not self._is_local(nodes[0].id):
            self.found.append(Reference(nodes, not self.later))

    def _is_local(self, name: str) -> bool:
        # As in Python, a class's names are not visible in the functions within it.
        visible = [names for is_class, names in self.scopes[:-1] if not is_class] + [n for _, n in self.scopes[-1:]]
        return any(name in names for names in visible)

    @contextmanager
    def _within(self, names: set[str], *, later: bool, is_class: bool = False) -> Iterator[None]:
        before, self.later = self.later, self.later or later
        self.scopes.append((is_class, names))
        yield
        self.scopes.pop()
        self.later = before

    def _visit_all(self, nodes: Iterable[ast.AST | None], *, later: bool = False) -> None:
        before, self.later = self.later, self.later or later
        for node in nodes:
            if node is not None:
                self.visit(node)
        self.later = before

    def _visit_function(self, node: Function) -> None:
        arguments = _arguments(node.args)
        self._visit_all([*node.decorator_list, *node.args.defaults, *node.args.kw_defaults])
        self._visit_all([*(argument.annotation for argument in arguments), node.returns], later=True)
        with self._within({a.arg for a in arguments} | bound_names(node.body), later=True):
            self._visit_all(node.body)

    visit_FunctionDef = _visit_function
    visit_AsyncFunctionDef = _visit_function

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_all([*node.args.defaults, *node.args.kw_defaults])
        with self._within({a.arg for a in _arguments(node.args)}, later=True):
            self.visit(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all([*node.decorator_list, *node.bases, *node.keywords])
        with self._within(bound_names(node.body), later=False, is_class=True):
            self._visit_all(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._visit_all([node.target, node.value])
        self._visit_all([node.annotation], later=True)

    def _visit_comprehension(self, node: Comprehension) -> None:
        names = {n.id for generator in node.generators for n in ast.walk(generator.target) if isinstance(n, ast.Name)}
        with self._within(names, later=False):
            self.generic_visit(node)

    visit_ListComp = _visit_comprehension
    visit_SetComp = _visit_comprehension
    visit_DictComp = _visit_comprehension
    visit_GeneratorExp = _visit_comprehension


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    ends = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *ends]
