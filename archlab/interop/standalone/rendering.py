"""The text of a bundle: its imports, then its definitions as their authors wrote them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from typing import TypeAlias

from archlab.interop.standalone.bundle import Bundle
from archlab.interop.standalone.source import Definition, ExternalName, Statement
from archlab.interop.standalone.statements import ExportedStatement

WIDTH = 120
Edit: TypeAlias = tuple[int, int, str]
_KEYWORD = re.compile(rb"(async\s+def|def|class)\s+")


def render_imports(bundle: Bundle, also: Iterable[ExternalName]) -> str:
    """Return the import statements for what a bundle uses and for what else is named, sorted."""
    externals = {*bundle.externals(), *also}
    plain = {f"import {name}" for name in bundle.submodules()}
    members: dict[str, set[str]] = {}
    for external in externals:
        module, _, name = external.dotted.rpartition(".")
        alias = bundle.name(external)
        if module:
            members.setdefault(module, set()).add(name if alias == name else f"{name} as {alias}")
        else:
            plain.add(f"import {name}" if alias == name else f"import {name} as {alias}")
    members.pop("builtins", None)
    lines = sorted(plain) + [_from_import(module, members[module]) for module in sorted(members)]
    groups = [[line for line in lines if _is_standard(line) == standard] for standard in (True, False)]
    return "\n\n".join("\n".join(group) for group in groups if group)


def _from_import(module: str, names: Iterable[str]) -> str:
    ordered = sorted(names, key=_import_order)
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) <= WIDTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in ordered) + ")"


def _import_order(name: str) -> tuple[int, str]:
    word = name.partition(" ")[0]
    return (0 if word.isupper() and len(word) > 1 else 1 if word[0].isupper() else 2, name)


def _is_standard(line: str) -> bool:
    return line.split()[1].partition(".")[0] in sys.stdlib_module_names


def packages_of(bundle: Bundle) -> list[str]:
    """Return the packages outside the standard library that a bundle imports."""
    roots = {external.dotted.partition(".")[0] for external in bundle.externals()}
    return sorted(roots - set(sys.stdlib_module_names))


def render_definitions(bundle: Bundle) -> str:
    """Return the definitions in order, each module's introduced by its own docstring as a comment."""
    parts: list[str] = []
    before: Statement | None = None
    for piece in bundle.pieces:
        parts.append(_between(before, piece.statement) + _text(piece, bundle))
        before = piece.statement
    return "".join(parts)


def _between(before: Statement | None, statement: Statement) -> str:
    space = "\n\n\n" if _is_definition(statement) else "\n\n"
    if before is not None and before.module is statement.module:
        return space if _is_definition(statement) else "\n\n\n" if _is_definition(before) else "\n"
    docstring = ast.get_docstring(statement.module.tree)
    end = "" if before is None else "\n\n\n"
    return f"{end}{_comment(docstring)}{space}" if docstring else end


def _comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())


def _is_definition(statement: Statement) -> bool:
    return isinstance(statement.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _text(piece: ExportedStatement, bundle: Bundle) -> str:
    begin, end = _lines_of(piece.statement)
    data = piece.statement.module.data[begin:end]
    edits = [*_dropped_registrations(piece), *_changed_slots(piece, bundle), *_renamed(piece, bundle)]
    for first, last, new in sorted(edits, reverse=True):
        data = data[: first - begin] + new.encode() + data[last - begin :]
    return data.decode().rstrip()


def _lines_of(statement: Statement) -> tuple[int, int]:
    """Return where the lines of a statement begin, with the comment above it, and end."""
    module, node = statement.module, statement.node
    line = min([node.lineno, *(decorator.lineno for decorator in statement.decorators)])
    while line > 1 and module.data[module.offset(line - 1) : module.offset(line)].startswith(b"#"):
        line -= 1
    assert node.end_lineno is not None
    return module.offset(line), module.offset(node.end_lineno + 1)


def _dropped_registrations(piece: ExportedStatement) -> list[Edit]:
    module = piece.statement.module
    return [(module.offset(d.lineno), module.offset((d.end_lineno or d.lineno) + 1), "") for d in piece.registrations]


def _changed_slots(piece: ExportedStatement, bundle: Bundle) -> list[Edit]:
    edits: list[Edit] = []
    for node, default in piece.slots:
        begin, end = piece.statement.module.span(node)
        equals = re.search(rb"\s*=\s*$", piece.statement.module.data[:begin])
        assert equals is not None
        edits.append((begin, end, bundle.name(default)) if default else (equals.start(), end, ""))
    return edits


def _renamed(piece: ExportedStatement, bundle: Bundle) -> list[Edit]:
    module = piece.statement.module
    edits = [(*module.span(use.node), bundle.name(use.target)) for use in piece.uses]
    if _is_definition(piece.statement):
        edits.append(_renamed_definition(piece.statement, bundle))
    return [(begin, end, new) for begin, end, new in edits if module.data[begin:end] != new.encode()]


def _renamed_definition(statement: Statement, bundle: Bundle) -> Edit:
    module, node = statement.module, statement.node
    name: str = getattr(node, "name", "")
    keyword = _KEYWORD.match(module.data, module.offset(node.lineno, node.col_offset))
    assert keyword is not None
    return keyword.end(), keyword.end() + len(name.encode()), bundle.name(Definition(module.name, name))
