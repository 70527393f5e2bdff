"""Mistral as MistralForCausalLM: LLaMA with grouped heads and a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.interop.hugging_face import _decoder
from archlab.interop.hugging_face._decoder import key_map

__all__ = ["ARCHITECTURE", "FIELDS", "FIXED", "key_map", "to_archlab_config", "to_hf_config"]

ARCHITECTURE = "MistralForCausalLM"
FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
FIXED: dict[str, tuple[Any, ...]] = _decoder.FIXED | {"hidden_act": ("silu", "swish")}


def to_archlab_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    window = config["sliding_window"]
    sliding = None if window is None else {"window": "sliding", "window_size": window}
    return _decoder.decoder_config(config, ffn={"type": "swiglu"}, attention=sliding)


def to_hf_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a model's YAML data most resembles."""
    attention, fields = model["layers"][0]["mixer"]["attention"], _decoder.decoder_fields(model)
    if attention.get("window") != "sliding":
        return fields | {"sliding_window": None, "hidden_act": "silu"}
    longest = FIELDS["max_position_embeddings"]
    return fields | {
        "sliding_window": attention["window_size"],
        "max_position_embeddings": longest,
        "hidden_act": "silu",
    }
