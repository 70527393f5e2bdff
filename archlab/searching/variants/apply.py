"""A trial's values applied to an experiment: the base of its search, a rung of a ladder, or another model size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.config.domains import Tie
from archlab.config.experiment import UnresolvedExperiment
from archlab.searching.variants import selectors
from archlab.searching.variants.pattern import Pattern
from archlab.searching.variants.references import sort_paths
from archlab.searching.variants.variant import MISSING, Held, Variant, Varied, start


def apply_values(
    varied: Mapping[str, Varied],
    values: Mapping[str, Any],
    experiment: UnresolvedExperiment,
    source: str,
    *,
    keep_depth: bool = False,
) -> UnresolvedExperiment:
    """Return an experiment with a trial's values, by the paths of `Space.varied`.

    `keep_depth` is for another experiment than the search's own: its patterns get as many layers as it has, and what
    `hold` solved for is left out. Where a letter of a pattern sets nothing, the experiment's first layer holds; a
    value for each layer is spread over those that the experiment has. Raises ConfigError for a value that it has no
    place for.
    """
    return _put_all(varied, values, experiment, source, keep_depth).finish()


def retie(
    varied: Mapping[str, Varied], values: Mapping[str, Any], experiment: UnresolvedExperiment, source: str
) -> dict[str, Any]:
    """Return a trial's values with those of ties as they follow from the others."""
    variant = _put_all(varied, values, experiment, source, keep_depth=False)
    return {path: tied_value(path, varied[path], variant, value) for path, value in values.items()}


def tied_value(path: str, domain: Varied, variant: Variant, value: Any = MISSING) -> Any:
    """Return the value of a tie, a list where it differs between layers; the given one if there is none to follow."""
    tied = list(variant.tied_values(path, domain).values()) if isinstance(domain, Tie) else []
    if not tied:
        return value
    return tied[0] if all(other == tied[0] for other in tied) else tied


def _put_all(
    varied: Mapping[str, Varied],
    values: Mapping[str, Any],
    experiment: UnresolvedExperiment,
    source: str,
    keep_depth: bool,
) -> Variant:
    variant = start(experiment, each_lists(varied), source)
    for path in sort_paths(varied):
        if path in values and not (keep_depth and isinstance(varied[path], Held)):
            variant = variant.put(path, varied[path], values[path], keep_depth=keep_depth)
    return variant


def each_lists(varied: Mapping[str, Varied]) -> tuple[str, ...]:
    """Return the lists of layers of which a space varies `[each]`, unless a pattern makes them."""
    found = [selectors.first_selector(path) for path in varied]
    lists = [each[0] for each in found if each and each[1] == selectors.EACH]
    return tuple(path for path in dict.fromkeys(lists) if not isinstance(varied.get(path), Pattern))
