"""Optuna's names of a search's parameters: one knob below different choices is several parameters to the sampler."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from archlab.searching.variants import selectors
from archlab.searching.variants.pattern import Pattern
from archlab.searching.variants.variant import Variant, Varied
from archlab.text import HIDDEN, visible

Scalar: TypeAlias = "str | int | float | bool | None"
_MAX_LENGTH = 60


class Names:
    """The choices of a trial so far, which are part of the names of the parameters below them."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._by_layer: dict[str, Any] = {}  # of `[each]` and of patterns, which only names of one layer have

    def choose(self, path: str, domain: Varied, value: Any, variant: Variant) -> None:
        """Remember the value of a path."""
        if isinstance(domain, Pattern):
            letters = variant.letters(path)
            self._by_layer |= {f"{path}[{index}]": letter for index, letter in enumerate(letters)}
        elif len(own := variant.parameter_paths(path)) > 1 or own != [path]:
            self._by_layer |= {one: entry for one, entry in zip(own, value, strict=True) if variant.knobs(one)}
        else:
            self._values[path] = value

    def of(self, path: str) -> str:
        """Return Optuna's name of a knob: its path, with each choice above it after the part that was chosen.

        `model.layers[*].mixer.ema=cema.num_dims`.
        """
        parts = selectors.split(path)
        values = self._values if selectors.has_wildcard(path) else {**self._values, **self._by_layer}
        above = [other for other in values if _decides(other, path)]
        choices = {len(selectors.split(other)): encode_choice(values[other]) for other in above}
        name: str = ""
        for depth, part in enumerate(parts, 1):
            name += selectors.join([part]) if _is_bracketed(part) else f".{part}"
            name += f"={_short(str(choices[depth]))}" if depth in choices else ""
        return name.removeprefix(".")


def _is_bracketed(part: str | int) -> bool:
    return selectors.is_index(part) or part == "*" or selectors.is_selector(part)


def _decides(other: str, path: str) -> bool:
    if not selectors.is_ancestor(other, path):
        return False
    above = selectors.split(other)
    # A choice for the layers of one letter, or for one layer, names the parameters of those layers only.
    return not any(map(selectors.is_selector, above)) or above == selectors.split(path)[: len(above)]


def encode_choice(value: Any) -> Scalar:
    """Return a choice as the scalar that Optuna stores: itself, or compact JSON for a mapping or a list."""
    if isinstance(value, Mapping | list):
        return json.dumps(value, separators=(",", ":"), sort_keys=True)
    return value


def choices_digest(labels: list[Scalar]) -> str:
    """Return a suffix that identifies a set of choices: Optuna does not let the choices of one parameter change."""
    return "{" + _short(",".join(str(name) for name in labels)) + "}"


def _short(text: str) -> str:
    if len(text) <= _MAX_LENGTH and not HIDDEN.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{visible(text)[: _MAX_LENGTH - 12].rstrip()}~{digest}"
