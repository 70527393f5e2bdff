"""Whether the best trial of a search is better than its baseline."""

from __future__ import annotations

from archlab.searching.results.summary import SearchSummary
from archlab.searching.space.objectives import VALIDATION


def is_worse_than_baseline(summary: SearchSummary) -> bool:
    """Return whether the best trial is worse than the baseline by the first objective; false where one is not known.

    Both are compared on the whole validation split, if they were evaluated there.
    """
    pair = objective_values(summary)
    if pair is None:
        return False
    best, baseline = pair
    direction = next(iter(summary.objectives.values()))
    return best < baseline if direction == "maximize" else best > baseline


def objective_values(summary: SearchSummary) -> tuple[float, float] | None:
    """Return the first objective of the best trial and of the baseline, or None where one of them has none."""
    best, baseline, objective = summary.best_trial, summary.baseline, next(iter(summary.objectives))
    if best is None:
        return None
    if (whole := whole_split_values(summary)) is not None:
        return whole
    if objective in best.metrics and objective in baseline.metrics:
        return best.metrics[objective], baseline.metrics[objective]
    return None


def whole_split_values(summary: SearchSummary) -> tuple[float, float] | None:
    """Return the first objective of both on the whole validation split, or None where it was not measured there."""
    best, objective = summary.best_trial, next(iter(summary.objectives))
    name = objective.removeprefix(VALIDATION)
    if best is None or not objective.startswith(VALIDATION):
        return None
    own, base = best.validation.get(name), summary.baseline.validation.get(name)
    return None if own is None or base is None else (own, base)
