"""Decoders whose layers have different mixers: fields of their configurations, and key maps of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archlab.interop._formats import Fields, KeyMap
from archlab.interop.hugging_face.formats._names import prefix

LINEAR = "linear_attention"  # beside the kinds of layers in `_windows`


def hybrid_key_map(config: Fields, ends: KeyMap, layers: Sequence[KeyMap]) -> KeyMap:
    """Map the tensor names of transformers to archlab's, given the map of each layer."""
    own = {
        f"model.layers.{index}.{theirs}": prefix(f"blocks.{index}", ours)
        for index, layer in enumerate(layers)
        for theirs, ours in layer.items()
    }
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": "head.weight"}
    return ends | own | head


def whole_layers(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every layer of a model's YAML data, a repeated one as often as it is repeated."""
    return [layer for layer in model["layers"] for _ in range(layer.get("repeat", 1))]


def led_by(model: Mapping[str, Any], mixer: str) -> dict[str, Any]:
    """Return a model's YAML data with the layers of a mixer first, where a decoder's fields are read from."""
    return {**model, "layers": sorted(model["layers"], key=lambda layer: bool(layer["mixer"]["type"] != mixer))}


def first_layer(model: Mapping[str, Any], mixer: str) -> dict[str, Any]:
    """Return the YAML data of the first layer that has a mixer, or nothing."""
    return next((layer for layer in model["layers"] if layer["mixer"]["type"] == mixer), {})
