"""Paths of a space that refer to others: ties, divisors, and the order in which all are decided."""

from __future__ import annotations

from collections.abc import Mapping

from archlab.config.domains import Interval, Tie
from archlab.errors import ConfigError
from archlab.searching.variants import selectors
from archlab.searching.variants.variant import Varied


def reference_of(domain: Varied) -> str | None:
    """Return the path that a domain refers to, if it does."""
    if isinstance(domain, Tie):
        return domain.same_as
    return domain.divides if isinstance(domain, Interval) else None


def sort_paths(varied: Mapping[str, Varied]) -> list[str]:
    """Return the varied paths, ancestors and referenced ones first, then `layers[*]` before `layers[0]`, ties last.

    Raises ConfigError for paths that refer to each other in a circle.
    """
    by_depth = sorted(varied, key=lambda path: (len(selectors.split(path)), selectors.specificity(path)))
    ordered: list[str] = []
    for path in by_depth:
        _visit(path, varied, by_depth, ordered, ())
    return _with_ties_last(ordered, varied)


def _with_ties_last(ordered: list[str], varied: Mapping[str, Varied]) -> list[str]:
    """Move ties behind the choices, which a knob that they follow may interpolate, unless a choice depends on one."""
    last: list[str] = []
    for path in reversed(ordered):
        if isinstance(varied[path], Tie) and not any(_depends(other, path, varied) for other in {*ordered} - {*last}):
            last.insert(0, path)
    return [*(path for path in ordered if path not in last), *last]


def _depends(other: str, path: str, varied: Mapping[str, Varied]) -> bool:
    reference = reference_of(varied[other])
    refers = reference and (selectors.is_prefix(path, reference) or selectors.is_prefix(reference, path))
    return other != path and (bool(refers) or selectors.is_prefix(path, other))


def _visit(
    path: str, varied: Mapping[str, Varied], by_depth: list[str], ordered: list[str], chain: tuple[str, ...]
) -> None:
    if path in ordered:
        return
    if path in chain:
        circle = " -> ".join((*chain[chain.index(path) :], path))
        raise ConfigError(f"vary.{path}", f"depends on itself: {circle}")
    reference = reference_of(varied[path])
    if reference is not None:
        for other in by_depth:
            # `layers[*]` may follow `layers[0]`, which is one of its own: that changes nothing there.
            is_itself = other == path != reference
            if not is_itself and (selectors.is_prefix(other, reference) or selectors.is_prefix(reference, other)):
                _visit(other, varied, by_depth, ordered, (*chain, path))
    above = [other for other in by_depth if other != path and selectors.is_ancestor(other, path)]
    for other in above:
        _visit(other, varied, by_depth, ordered, (*chain, path))
    ordered.append(path)
