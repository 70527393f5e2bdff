"""Layers that differ by their windows, as `layer_types` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import Fields

FULL, SLIDING = "full_attention", "sliding_attention"


def window_layers(config: Fields, kinds: Sequence[str], layers: Mapping[str, Fields]) -> list[dict[str, Any]]:
    """Return a layer for each run of equal kinds, from the knobs of each kind."""
    if len(kinds) != config["num_hidden_layers"]:
        raise ArchlabError(f"layer_types has {len(kinds)} entries for num_hidden_layers {config['num_hidden_layers']}")
    for kind in kinds:
        if kind not in layers:
            raise ArchlabError(f"layer_types {kind!r}: not represented, only {' and '.join(map(repr, layers))} are")
    return [{"repeat": len(list(run)), **layers[kind]} for kind, run in groupby(kinds)]


def windows(config: Fields, **knobs: Any) -> dict[str, dict[str, Any]]:
    """Return the attention of each kind of layer."""
    full = {"window": "full", "window_size": config["max_position_embeddings"], **knobs}
    if config["sliding_window"] is None:
        return {FULL: full}
    return {FULL: full, SLIDING: {"window": "sliding", "window_size": config["sliding_window"], **knobs}}


def window_fields(model: Fields) -> dict[str, Any]:
    """Return the fields of each layer's window that are closest to a model's YAML data."""
    kinds, sizes = [], dict[str, int]()
    for layer in model["layers"]:
        attention = layer["mixer"]["attention"]
        kind = SLIDING if attention["window"] == "sliding" else FULL
        kinds += [kind] * layer.get("repeat", 1)
        sizes[kind] = attention["window_size"]
    longest = {"max_position_embeddings": sizes[FULL]} if FULL in sizes else {}
    return {"layer_types": kinds, "sliding_window": sizes.get(SLIDING), **longest}
