"""One architecture at another width and depth: which knobs follow the model's width, and which stay.

Decided by a knob's name, as components name them (a user's own included): `*_dim` is a width and keeps its
ratio to the model's; `num_heads` and `num_groups` keep the channels of each; `head_dim` and `state_dim` are sizes that
published models keep at any width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from archlab.config import paths
from archlab.config.experiment import Experiment, read
from archlab.errors import ConfigError
from archlab.searching.variants import selectors

WIDTH = "model.dim"
_COUNTS = ("num_heads", "num_kv_heads", "num_groups")
_REPEAT = "repeat"


def width_of(experiment: Experiment, by: str = WIDTH) -> int:
    """Return an experiment's width; raise ConfigError where the path holds no whole number."""
    width = paths.get(experiment.resolved, by)
    if not isinstance(width, int) or isinstance(width, bool):
        raise ConfigError(
            by, f"{width!r} is not a width to scale by: name a whole number of the model", experiment.source
        )
    return width


def depth_of(experiment: Experiment) -> int:
    """Return the number of layers, repeats counted, over all lists of layers."""
    return sum(_repeat(entry) for entry in _layers(experiment.model.to_plain()))


def least_depth(experiment: Experiment) -> int:
    """Return the number of layers of the pattern alone: each entry once."""
    return len(list(_layers(experiment.model.to_plain())))


def resize(
    experiment: Experiment,
    *,
    width: int | None = None,
    layers: int | None = None,
    by: str = WIDTH,
    fixed: Mapping[str, Any] | None = None,
) -> Experiment:
    """Return an experiment at another width, with the knobs that follow it, and another number of layers.

    A list of several layers keeps its pattern: each entry's repeats are scaled, and every entry stays. `fixed` are
    values by path that hold whatever the width.
    Raises ConfigError where the number of layers is smaller than the pattern's.
    """
    tree = experiment.resolved
    if width is not None:
        old = width_of(experiment, by)
        tree["model"] = _follow(tree["model"], width / old, width)
        tree = paths.put(tree, by, width)
    if layers is not None:
        _set_depth(tree["model"], layers, experiment.source)
    return read(tree).override(fixed or {}, experiment.source).resolve()


def scale_values(values: Mapping[str, Any], ratio: float, width: int) -> dict[str, Any]:
    """Return choices by path for a model that is wider by a ratio: widths and counts in them follow."""
    return {path: _scale_value(path, value, ratio, width) for path, value in values.items()}


def scale_tree(tree: Mapping[str, Any], ratio: float, width: int) -> dict[str, Any]:
    """Return the YAML of a part of a model that has become wider by a ratio, up to a width."""
    followed: dict[str, Any] = _follow(tree, ratio, width)
    return followed


def _scale_value(path: str, value: Any, ratio: float, width: int) -> Any:
    name = str(selectors.split(path)[-1])
    if path.startswith("train."):
        return value
    if isinstance(value, list):  # one value for each layer
        return [_follow({name: one}, ratio, width)[name] for one in value]
    return _follow({name: value}, ratio, width)[name]


def _follow(node: Any, ratio: float, width: int) -> Any:
    """Return a tree whose widths and counts are scaled by a ratio."""
    if isinstance(node, list):
        return [_follow(entry, ratio, width) for entry in node]
    if not isinstance(node, Mapping):
        return node
    heads = _scaled_counts(node, ratio, width)
    unit = math.lcm(*(2 * count for name, count in heads.items() if name != "num_groups")) if heads else 1
    scaled = {key: _scale_dim(key, value, ratio, width, unit) for key, value in node.items()}
    return {key: _follow(value, ratio, width) for key, value in scaled.items()} | heads


def _scaled_counts(node: Mapping[str, Any], ratio: float, width: int) -> dict[str, int]:
    """Return the numbers of heads and groups, each a divisor of its width."""
    counts: dict[str, int] = {}
    for name in _COUNTS:
        count = node.get(name)
        if count is None or not _is_number(count):
            continue
        whole = counts.get("num_heads", width) if name == "num_kv_heads" else width
        # One group is no grouping, at any width; one head is a small model's.
        wanted = count * ratio if name != "num_groups" or count > 1 else 1
        counts[name] = _divisor(whole, wanted, even=name == "num_heads" and width % 2 == 0)
    return counts


def _scale_dim(key: str, value: Any, ratio: float, width: int, unit: int) -> Any:
    if not _is_number(value) or not key.endswith("_dim") or key == "state_dim":
        return value
    if key == "head_dim":
        return _nearest_part(width, value)
    wanted = value * ratio
    unit = math.lcm(unit, 64 if wanted >= 1024 else 8 if wanted >= 64 else 2)
    return max(1, round(wanted / unit)) * unit


def _divisor(whole: int, wanted: float, *, even: bool = False) -> int:
    """Return the largest divisor that is at most `wanted`, and at least 1; `even` parts of it can be rotated."""
    limit = max(1, min(whole, round(wanted)))
    divisors = (number for number in range(limit, 0, -1) if whole % number == 0)
    return next((number for number in divisors if not even or whole // number % 2 == 0), 1)


def _nearest_part(width: int, size: int) -> int:
    """Return the size of parts of a width that is nearest to another by ratio: even, which can be rotated, if it is."""
    parts = (part for part in range(1, width + 1) if width % part == 0 and (width % 2 or part % 2 == 0))
    return min(parts, key=lambda part: (abs(math.log(part / size)), part))


def head_change(before: Experiment, after: Experiment, by: str = WIDTH) -> float:
    """Return by how many octaves the heads of a resized model have become wider or narrower, those that changed most.

    A head of the whole width is as wide as one of a narrow model can be. 0 where they have other parts with heads.
    """
    width = width_of(after, by)
    old, new = (_head_dims(each.resolved["model"], width_of(each, by)) for each in (before, after))
    pairs = zip(old, new, strict=True) if len(old) == len(new) else ()
    return max((abs(math.log2(size / min(wanted, width))) for wanted, size in pairs), default=0.0)


def _head_dims(node: Any, width: int) -> list[float]:
    """Return the channels of a head in each part of a model that has heads, in order."""
    if isinstance(node, list):
        return [size for entry in node for size in _head_dims(entry, width)]
    if not isinstance(node, Mapping):
        return []
    own: list[float] = [value for key, value in node.items() if key == "head_dim" and _is_number(value)]
    counted = [width / value for key, value in node.items() if key == "num_heads" and _is_number(value)]
    return [*(own or counted), *(size for value in node.values() for size in _head_dims(value, width))]


def _set_depth(model: dict[str, Any], layers: int, source: str) -> None:
    entries = list(_layers(model))
    if not entries:
        raise ConfigError("model", "has no list of layers to make deeper or shallower", source)
    if layers < len(entries):
        raise ConfigError("model.layers", f"{layers} layers are fewer than the {len(entries)} of its pattern", source)
    old = [_repeat(entry) for entry in entries]
    for entry, repeat in zip(entries, _share(layers, old), strict=True):
        entry[_REPEAT] = repeat


def _share(layers: int, old: list[int]) -> list[int]:
    """Divide layers among entries in proportion to their repeats, at least one each, the largest remainders first."""
    exact = [layers * repeat / sum(old) for repeat in old]
    shares = [max(1, math.floor(share)) for share in exact]
    while sum(shares) > layers:
        shares[max(range(len(shares)), key=lambda i: (shares[i] > 1, shares[i] - exact[i], -i))] -= 1
    while sum(shares) < layers:
        shares[max(range(len(shares)), key=lambda i: (exact[i] - shares[i], -i))] += 1
    return shares


def _layers(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the entries of the lists of components in a model, those of the outermost lists."""
    for value in node.values() if isinstance(node, Mapping) else ():
        if isinstance(value, list) and value and all(isinstance(entry, dict) and "type" in entry for entry in value):
            yield from value
        else:
            yield from _layers(value)


def _repeat(entry: Mapping[str, Any]) -> int:
    return int(entry.get(_REPEAT, 1))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
