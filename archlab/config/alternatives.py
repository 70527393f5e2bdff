"""Settings of `train:` of which one replaces the other: the one that is set last counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.config import paths
from archlab.errors import ConfigError

_PAIRS = (("steps", "budget"), ("warmup", "warmup_fraction"))


def refuse_both(train: Mapping[str, Any], path: str) -> None:
    """Raise ConfigError for settings of which both are given, neither after the other."""
    for one, other in _PAIRS:
        if train.get(one) is not None and train.get(other) is not None:
            raise ConfigError(f"{path}.{other}", f"{path}.{one} is given too, and both say how many; leave one out")


def make_way(tree: dict[str, Any], given: Any) -> dict[str, Any]:
    """Return a tree without the settings of `train` that those of `given`, which are set above it, replace."""
    train = tree.get("train")
    if not isinstance(train, dict) or not isinstance(given, Mapping):
        return tree
    replaced = _replaced_keys(given)
    return {**tree, "train": {key: value for key, value in train.items() if key not in replaced}}


def make_way_for(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a tree without the settings that a value set by its path replaces."""
    top, *below = paths.split(path)
    if top != "train" or not below:
        return tree
    return make_way(tree, {below[0]: value if len(below) == 1 else {below[1]: value}})


def _replaced_keys(given: Mapping[Any, Any]) -> set[str]:
    names = {name for pair in _PAIRS for name in pair if given.get(name) is not None}
    replaced = {other for one, other in (*_PAIRS, *(pair[::-1] for pair in _PAIRS)) if one in names}
    # Tokens and seconds would merge to a budget of both.
    return (replaced - names) | ({"budget"} & names)
