"""Rotary angles as `rope_parameters` and, in older files, `rope_theta` and `rope_scaling` describe them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import Fields

# The fields of each rope_type beside its base, and the names of those that are one number here.
LINEAR = {"factor": "factor"}
LLAMA3 = {
    "factor": "factor",
    "original_max_position_embeddings": "trained_context",
    "low_freq_factor": "slow_turns",
    "high_freq_factor": "fast_turns",
}
YARN = {
    "factor": "factor",
    "original_max_position_embeddings": "trained_context",
    "beta_slow": "slow_turns",
    "beta_fast": "fast_turns",
    "truncate": "whole_pairs",
    "attention_factor": "length",
}
TYPES: dict[str, tuple[str, dict[str, str]]] = {
    "default": ("rope", {}),
    "linear": ("rope_linear", LINEAR),
    "llama3": ("rope_llama3", LLAMA3),
    "yarn": ("rope_yarn", YARN),
}
# Fields of other types' angles, and values at which a feature is off.
_UNREAD = {"rope_type", "type", "rope_theta", "original_max_position_embeddings"}
_OFF = {"partial_rotary_factor": 1, "factor": 1}
SHARE = "partial_rotary_factor"
_YARN = {"beta_slow": 1.0, "beta_fast": 32.0}  # also where a file says null or 0


def rope_position(config: Fields, base: float = 10000.0, types: Collection[str] = tuple(TYPES)) -> dict[str, Any]:
    """Return the YAML data of the position; raise ArchlabError for angles of no such type, and for two values of one.

    `base` is that of a configuration without one.
    """
    ropes = {field: config[field] or {} for field in ("rope_parameters", "rope_scaling")}
    base = _base(
        {"rope_theta": config["rope_theta"]} | {f"{k}.rope_theta": v.get("rope_theta") for k, v in ropes.items()}, base
    )
    longest = config["max_position_embeddings"]
    found = [_scaling(field, rope, longest, types) for field, rope in ropes.items()]
    scaled = [knobs for knobs in found if knobs["type"] != "rope"]
    if len(scaled) == len(found) and found[0] != found[1]:
        raise ArchlabError("rope_parameters and rope_scaling are one value; leave one out")
    return {"base": base, **(scaled[0] if scaled else found[0])}


def partial_position(config: Fields, default: float) -> dict[str, Any]:
    """Return the YAML data of a position that rotates a share of each head's features, which a rope may name itself.

    `default` is the share of a configuration without one.
    """
    ropes = {field: dict(config[field] or {}) for field in ("rope_parameters", "rope_scaling")}
    shares = {
        f"{field}.{SHARE}": share for field, rope in ropes.items() if (share := rope.pop(SHARE, None)) is not None
    }
    if not shares or config[SHARE] != default:
        shares[SHARE] = 1.0 if config[SHARE] is None else config[SHARE]
    return rope_position({**config, **ropes}) | {"fraction": _one_value(shares)}


def _one_value(given: Fields) -> float:
    """Return the number that fields agree on; raise ArchlabError where they do not."""
    if len(set(given.values())) > 1:
        values = " and ".join(f"{name} {value!r}" for name, value in given.items())
        raise ArchlabError(f"{values} are one value; leave one out")
    return float(next(iter(given.values())))


def _base(bases: Fields, default: float) -> float:
    return _one_value({name: base for name, base in bases.items() if base is not None} or {"rope_theta": default})


def _scaling(field: str, rope: Fields, longest: int, types: Collection[str]) -> dict[str, Any]:
    """Return the position that a mapping describes, without its base."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in types:
        raise ArchlabError(f"{field} {rope!r}: not represented, only rope_type {' or '.join(map(repr, types))} is")
    name, fields = TYPES[kind]
    rest = {key: value for key, value in rope.items() if value is not None and key not in (*_UNREAD, *fields)}
    if kind == "yarn":
        rest = {key: value for key, value in rest.items() if key not in ("mscale", "mscale_all_dim")}
    if not rest.items() <= _OFF.items():
        raise ArchlabError(f"{field} {rope!r}: not represented, only rope_type {kind!r} without {', '.join(rest)} is")
    if kind == "default" or (kind == "linear" and rope.get("factor") == 1):
        return {"type": "rope"}
    return {"type": name} | _knobs(field, kind, rope, longest)


def _knobs(field: str, kind: str, rope: Fields, longest: int) -> dict[str, Any]:
    values: dict[str, Any] = {key: rope.get(key) for key in TYPES[kind][1]}
    if "original_max_position_embeddings" in values:
        values["original_max_position_embeddings"] = values["original_max_position_embeddings"] or longest
    if kind == "yarn":
        values |= {key: values[key] or default for key, default in _YARN.items()}
        values["truncate"] = rope.get("truncate", True)
        values["factor"] = values["factor"] or longest / values["original_max_position_embeddings"]
        values["attention_factor"] = _yarn_length(rope, values["factor"])
    for key, value in values.items():
        if value is None and key != "attention_factor":
            raise ArchlabError(f"{field} {rope!r}: {key!r} is missing")
    return {TYPES[kind][1][key]: value for key, value in values.items()}


def _yarn_length(rope: Fields, factor: float) -> float | None:
    """Return the factor of queries and keys, or None for the usual one."""
    own: float | None = rope.get("attention_factor")
    if own is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        above, below = (mscale(factor, rope[key]) for key in ("mscale", "mscale_all_dim"))
        return above / below
    return own


def mscale(factor: float, scale: float) -> float:
    """Return YaRN's factor of queries and keys for a scaling factor, with a given strength."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def rope_fields(position: Fields) -> dict[str, Any]:
    """Return the `rope_parameters` closest to a position's YAML data."""
    found = {name: (kind, fields) for kind, (name, fields) in TYPES.items()}
    kind, fields = found.get(position.get("type", "rope"), ("default", {}))
    own = {key: position[name] for key, name in fields.items() if position.get(name) is not None}
    return {"rope_type": kind, "rope_theta": position.get("base", 10000.0), **own}
