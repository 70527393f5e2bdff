"""The Python expression that builds the model of a spec."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from archlab.config.spec import Spec

WIDTH = 100
Name: TypeAlias = Callable[[type], str]


@dataclass(frozen=True)
class _Group:
    """A bracketed expression, written on one line or with one line per item, and its repetition `* repeat`."""

    head: str
    items: tuple[_Expression, ...]
    tail: str
    repeat: int = 1


_Expression: TypeAlias = str | _Group


def render_call(spec: Spec, name: Name, partial: str, indent: int) -> str:
    """Return the call that builds a spec, its parts as partials, broken into lines of at most WIDTH characters.

    `name` returns the name of a class; `indent` is the column at which the call begins.
    """
    return _render(_Group(f"{name(spec.component.cls)}(", _knobs(spec, name, partial), ")"), indent)


def _knobs(spec: Spec, name: Name, partial: str) -> tuple[_Expression, ...]:
    return tuple(_expression(f"{knob}=", value, name, partial) for knob, value in spec.knobs.items())


def _expression(prefix: str, value: Any, name: Name, partial: str) -> _Expression:
    if isinstance(value, Spec):
        return _part(prefix, value, name, partial)
    if isinstance(value, list):
        return _list(prefix, value, name, partial)
    return prefix + (json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value))


def _part(prefix: str, spec: Spec, name: Name, partial: str) -> _Expression:
    cls = name(spec.component.cls)
    return _Group(f"{prefix}{partial}(", (cls, *_knobs(spec, name, partial)), ")") if spec.knobs else prefix + cls


def _list(prefix: str, values: list[Any], name: Name, partial: str) -> _Expression:
    repeats = [value.repeat if isinstance(value, Spec) else 1 for value in values]
    if len(values) == 1 and repeats[0] > 1:
        return _Group(f"{prefix}[", (_expression("", values[0], name, partial),), "]", repeats[0])
    return _Group(f"{prefix}[", tuple(_entries(zip(values, repeats, strict=True), name, partial)), "]")


def _entries(values: Iterable[tuple[Any, int]], name: Name, partial: str) -> Iterable[_Expression]:
    for value, repeat in values:
        entry = _expression("", value, name, partial)
        yield entry if repeat == 1 else _Group("*[", (entry,), "]", repeat)


def _render(expression: _Expression, indent: int) -> str:
    flat = _flat(expression)
    if isinstance(expression, str) or indent + len(flat) < WIDTH:
        return flat
    inner = " " * (indent + 4)
    lines = "".join(f"{inner}{_render(item, indent + 4)},\n" for item in expression.items)
    end = f"\n{' ' * indent}* {expression.repeat}" if expression.repeat > 1 else ""
    return f"{expression.head}\n{lines}{' ' * indent}{expression.tail}{end}"


def _flat(expression: _Expression) -> str:
    if isinstance(expression, str):
        return expression
    end = f" * {expression.repeat}" if expression.repeat > 1 else ""
    return f"{expression.head}{', '.join(map(_flat, expression.items))}{expression.tail}{end}"
