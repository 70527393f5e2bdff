"""Figures of a deep model from models of fewer layers: each further layer adds the same to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from archlab.config.experiment import Experiment, load
from archlab.errors import ConfigError

# Of three, one has the neighbors that all but the first and the last have; the fourth shows what another adds.
_FEW, _MORE = 3, 4


def by_few_layers(experiment: Experiment, measure: Callable[[Experiment], Sequence[int]]) -> list[int]:
    """Return figures that grow with each repetition of a layer as with the one before, from models of few of them.

    A model whose `layers:` repeat none more than four times, or that cannot be had with fewer, is measured as it is.
    """
    repeats = _repeats(experiment)
    deep = [index for index, repeat in enumerate(repeats) if repeat > _MORE]
    if not deep:
        return list(measure(experiment))
    few = [_FEW if index in deep else repeat for index, repeat in enumerate(repeats)]
    try:
        least = measure(_with_repeats(experiment, few))
    except ConfigError:  # such as one with more layers before and after its loops
        return list(measure(experiment))
    totals = list(least)
    for index in deep:
        more = [_MORE if index == other else repeat for other, repeat in enumerate(few)]
        times = (repeats[index] - _FEW) / (_MORE - _FEW)
        grown = measure(_with_repeats(experiment, more))
        totals = [total + round(times * (b - a)) for total, a, b in zip(totals, least, grown, strict=True)]
    return totals


def _repeats(experiment: Experiment) -> list[int]:
    return [int(layer.get("repeat", 1)) for layer in _layers(experiment.resolved)]


def _layers(tree: Any) -> Sequence[dict[str, Any]]:
    layers = tree["model"].get("layers")
    return layers if isinstance(layers, list) and all(isinstance(layer, dict) for layer in layers) else []


def _with_repeats(experiment: Experiment, repeats: Sequence[int]) -> Experiment:
    tree = experiment.resolved
    for layer, repeat in zip(_layers(tree), repeats, strict=True):
        layer["repeat"] = repeat
    return load(tree)
