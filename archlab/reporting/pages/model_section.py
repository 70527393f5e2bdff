"""A model's layers as a diagram, the components of each kind of layer, and differences between two models."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from archlab.config.yaml_writer import format_yaml
from archlab.reporting.figures.layers import layer_strips
from archlab.reporting.html import code, escape, figure
from archlab.reporting.model_layers import Kinds, Line, layer_lines, letter

_MOST = 12  # kinds that are described


def diagram(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the strips of models, the first of which the others are compared with, and their kinds of layers."""
    strips = layer_strips(models)
    if strips is None:
        return ""
    chart, kinds = strips
    left_out = f", of which {_MOST} are described" if len(kinds.trees) > _MOST else ""
    note = f"From input to output; layers with one letter are alike: {len(kinds.trees)} kinds{left_out}."
    if len(kinds.trees) == 1:
        note = "From input to output; all layers are alike."
    return figure(chart, note) + _describe(kinds)


def _describe(kinds: Kinds) -> str:
    first = {line.path: line for line in layer_lines(kinds.trees[0])}
    cards = (_card(number, tree, first) for number, tree in enumerate(kinds.trees[:_MOST]))
    return f'<dl class="kinds">{"".join(cards)}</dl>'


def _card(number: int, tree: Mapping[str, Any], first: Mapping[tuple[str, ...], Line]) -> str:
    lines = "".join(_line(line, first.get(line.path)) for line in layer_lines(tree))
    name = f'<span class="key mark c{number % 8}">{letter(number)}</span>'
    about = "" if number == 0 else " <small>differences from A are highlighted</small>"
    return f"<div><dt>{name}{escape(str(tree['type']))}{about}</dt><dd>{lines}</dd></div>"


def _line(line: Line, other: Line | None) -> str:
    if not line.path and not line.knobs:
        return ""
    knobs = [
        _mark(f"{key} {value}", other is not None and other.knobs.get(key) == value)
        for key, value in line.knobs.items()
    ]
    slot = _mark(f"{line.path[-1]}: {line.name}", other is not None and other.name == line.name) if line.path else ""
    return f'<div style="--depth:{max(len(line.path) - 1, 0)}">{slot} <small>{", ".join(knobs)}</small></div>'


def _mark(text: str, is_same: bool) -> str:
    return escape(text) if is_same else f'<b class="changed">{escape(text)}</b>'


def yaml_difference(before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str]) -> str:
    """Return the lines in which two experiments differ, folded, or nothing where they do not."""
    lines = list(_unified_diff(before, after, names))
    return code("\n".join(lines), folded=f"Difference of the experiments, {names[0]} to {names[1]}") if lines else ""


def _unified_diff(before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str]) -> Iterator[str]:
    old, new = (format_yaml(dict(tree)).splitlines() for tree in (before, after))
    return difflib.unified_diff(old, new, *names, lineterm="", n=2)
