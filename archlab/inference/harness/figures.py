"""Results of lm-eval's tasks, each with its interval by bootstrap over items."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from archlab.inference.suite import COVERAGE, Estimate, estimate_of_items

Aggregate: TypeAlias = Callable[[Sequence[Any]], float]
# Of a corpus, whose items are compared at once: lm-eval resamples these so often, too.
_SLOW, _FEW_RESAMPLES, _RESAMPLES = {"bleu", "chrf", "chrfpp", "ter"}, 100, 1000
_FEWEST_ITEMS = 4
# Aggregations that are a function of a mean, over items or over their weights.
_OF_A_MEAN: Mapping[str, Callable[[float], float]] = {
    "mean": lambda mean: mean,
    "perplexity": lambda mean: _exp(-mean),
    "weighted_perplexity": lambda mean: _exp(-mean),
    "bits_per_byte": lambda mean: -mean / math.log(2),
}


def figures_of(results: Mapping[str, Any], tasks: Mapping[str, Any]) -> Iterator[tuple[str, Estimate]]:
    """Yield each figure of what `lm_eval.evaluate` returned, groups first, by the names of task, metric and filter."""
    for name in results.get("groups", {}):
        yield from _group_figures(name, results, tasks)
    for name, task in tasks.items():
        for metric, key, value in _metrics(results["results"][name]):
            items = _items(results["samples"][name], metric, key)
            found = _interval(items, task.aggregation().get(metric))
            yield _label(name, metric, key), found if _is_same(found.value, value) else _bare(value, len(items))


def _metrics(found: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield metric, filter and value of a task; lm-eval's own errors and values that are not numbers are left out."""
    for name, value in found.items():
        metric, comma, key = name.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            yield metric, key, float(value)


def _items(samples: Sequence[Mapping[str, Any]], metric: str, key: str) -> list[Any]:
    return [each[metric] for each in samples if each["filter"] == key and metric in each]


def _label(name: str, metric: str, key: str) -> str:
    return f"{name} {metric}" if key == "none" else f"{name} {metric} ({key})"


def _bare(value: float, units: int) -> Estimate:
    return Estimate(value, None, None, units, units)


def _is_same(mine: float, theirs: float) -> bool:
    return math.isclose(mine, theirs, rel_tol=1e-6, abs_tol=1e-9)


def _group_figures(name: str, results: Mapping[str, Any], tasks: Mapping[str, Any]) -> Iterator[tuple[str, Estimate]]:
    """Yield a group's figures; one that is the mean of all of its tasks' items has the interval of these."""
    members = _members(name, results, tasks)
    for metric, key, value in _metrics(results["groups"][name]):
        items = [item for member in members for item in _items(results["samples"][member], metric, key)]
        aggregates = {getattr(tasks[member].aggregation().get(metric), "__name__", "") for member in members}
        found = _interval(items, tasks[members[0]].aggregation().get(metric)) if aggregates == {"mean"} else None
        is_pooled = found is not None and _is_same(found.value, value)
        yield _label(name, metric, key), found if found is not None and is_pooled else _bare(value, len(items))


def _members(name: str, results: Mapping[str, Any], tasks: Mapping[str, Any]) -> list[str]:
    """Return the tasks below a group."""
    if name in tasks:
        return [name]
    below = results.get("group_subtasks", {}).get(name, ())
    return [member for child in below for member in _members(child, results, tasks)]


def _interval(items: Sequence[Any], aggregate: Aggregate | None) -> Estimate:
    """Return an aggregate of items with its interval; one that lm-eval does not aggregate is not a number."""
    if aggregate is None or not items:
        return _bare(math.nan, len(items))
    of_mean = _OF_A_MEAN.get(aggregate.__name__) if aggregate.__module__ == "lm_eval.api.metrics" else None
    if of_mean is None:
        return _bootstrap(items, aggregate)
    pairs = [item if isinstance(item, tuple) else (item, 1) for item in items]
    found = estimate_of_items(*zip(*((float(value), float(weight)) for value, weight in pairs), strict=True))
    value, low, high = (None if bound is None else of_mean(bound) for bound in (found.value, found.low, found.high))
    assert value is not None
    bounds = sorted(bound for bound in (low, high) if bound is not None)
    return replace(found, value=value, low=bounds[0] if bounds else None, high=bounds[-1] if bounds else None)


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def _bootstrap(items: Sequence[Any], aggregate: Aggregate) -> Estimate:
    """Return any aggregate with its interval, computed for each resample."""
    count, value = len(items), float(aggregate(list(items)))
    if count < _FEWEST_ITEMS:
        return _bare(value, count)
    random, times = np.random.default_rng(0), _FEW_RESAMPLES if aggregate.__name__ in _SLOW else _RESAMPLES
    drawn = [float(aggregate([items[at] for at in random.integers(0, count, count)])) for _ in range(times)]
    low, high = map(float, np.nanquantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]))
    return _bare(value, count) if low == high else Estimate(value, low, high, count, count)
