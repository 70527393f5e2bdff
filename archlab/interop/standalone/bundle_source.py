"""The source text of a bundle: its imports, then its definitions as their authors wrote them."""

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
    """Return the sorted import statements of a bundle, and of further names."""
    externals = {*bundle.externals(), *also}
    plain = {f"import {name}" for name in bundle.submodules()}
    members: dict[str, set[str]] = {}
    for external in sorted(externals, key=lambda each: each.dotted):  # names that clash are numbered in this order
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
    """Return the definitions in order, those of a module below its docstring as a comment."""
    parts: list[str] = []
    before: Statement | None = None
    for exported in bundle.statements:
        parts.append(_separator(before, exported.statement) + _render_statement(exported, bundle))
        before = exported.statement
    return "".join(parts)


def _separator(before: Statement | None, statement: Statement) -> str:
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


def _render_statement(exported: ExportedStatement, bundle: Bundle) -> str:
    begin, end = _lines_of(exported.statement)
    data = exported.statement.module.data[begin:end]
    edits = [*_remove_registrations(exported), *_replace_slots(exported, bundle), *_rename_uses(exported, bundle)]
    for first, last, new in sorted(edits, reverse=True):  # from the end, so that earlier offsets stay valid
        data = data[: first - begin] + new.encode() + data[last - begin :]
    return data.decode().rstrip()


def _lines_of(statement: Statement) -> tuple[int, int]:
    """Return the byte span of a statement's lines, including decorators and the comment above it."""
    module, node = statement.module, statement.node
    line = min([node.lineno, *(decorator.lineno for decorator in statement.decorators)])
    while line > 1 and module.data[module.offset(line - 1) : module.offset(line)].startswith(b"#"):
        line -= 1
    assert node.end_lineno is not None
    return module.offset(line), module.offset(node.end_lineno + 1)


def _remove_registrations(exported: ExportedStatement) -> list[Edit]:
    module = exported.statement.module
    return [
        (module.offset(d.lineno), module.offset((d.end_lineno or d.lineno) + 1), "") for d in exported.registrations
    ]


def _replace_slots(exported: ExportedStatement, bundle: Bundle) -> list[Edit]:
    edits: list[Edit] = []
    for node, default in exported.slots:
        begin, end = exported.statement.module.span(node)
        equals = re.search(rb"\s*=\s*$", exported.statement.module.data[:begin])
        assert equals is not None
        edits.append((begin, end, bundle.name(default)) if default else (equals.start(), end, ""))
    return edits


def _rename_uses(exported: ExportedStatement, bundle: Bundle) -> list[Edit]:
    module = exported.statement.module
    edits = [(*module.span(use.node), bundle.name(use.target)) for use in exported.uses]
    if _is_definition(exported.statement):
        edits.append(_rename_definition(exported.statement, bundle))
    return [(begin, end, new) for begin, end, new in edits if module.data[begin:end] != new.encode()]


def _rename_definition(statement: Statement, bundle: Bundle) -> Edit:
    module, node = statement.module, statement.node
    name: str = getattr(node, "name", "")
    keyword = _KEYWORD.match(module.data, module.offset(node.lineno, node.col_offset))
    assert keyword is not None
    return keyword.end(), keyword.end() + len(name.encode()), bundle.name(Definition(module.name, name))
