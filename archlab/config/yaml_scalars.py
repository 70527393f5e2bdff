"""Plain scalars of YAML: which are numbers, booleans and null, and which are texts.

Booleans and null are those of YAML 1.1, numbers those of Python beside `.inf` and `.nan`. So `0100`, `12:30` and dates
are texts, which a knob that takes a number refuses by its path, where YAML 1.1 computes 64, 750 and a day.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from yaml.resolver import BaseResolver

TAG = "tag:yaml.org,2002:"
_BOOLS = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
_DIGITS = "[0-9](?:_?[0-9])*"
_PATTERNS = {  # of plain scalars, by their tags, with their first characters
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": ("|".join(form for word in _BOOLS for form in (word, word.title(), word.upper())), "yYnNtTfFoO"),
    "int": (
        r"[-+]?(?:0|[1-9](?:_?[0-9])*|0[xX][0-9a-fA-F](?:_?[0-9a-fA-F])*|0[oO][0-7](?:_?[0-7])*|0[bB][01](?:_?[01])*)",
        "-+0123456789",
    ),
    "float": (
        rf"[-+]?(?:(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?{_DIGITS})?|{_DIGITS}[eE][-+]?{_DIGITS}"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),
}


def add_types(resolver: type[BaseResolver]) -> None:
    """Teach a resolver of PyYAML the types of plain scalars."""
    for name, (pattern, first) in _PATTERNS.items():
        resolver.add_implicit_resolver(f"{TAG}{name}", re.compile(rf"(?:{pattern})\Z"), list(first))


def _null(text: str) -> None:
    if not re.fullmatch(_PATTERNS["null"][0], text):
        raise ValueError


def _float(text: str) -> float:
    word = text.lower().lstrip("+-")
    return float(text.replace(".", "", 1) if word in (".inf", ".nan") else text)


CONVERSIONS: Mapping[str, Callable[[str], Any]] = {
    "null": _null,
    "bool": lambda text: _BOOLS[text.lower()],
    "int": lambda text: int(text, 0),
    "float": _float,
    "str": str,
    "merge": str,  # of a value and not of a key
}
